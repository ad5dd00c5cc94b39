"""Advice on dead letters: every code and reason has a line, and the commands and options that it names exist."""

import re
from typing import get_args

import pytest

from resonant.blocks import WebhookEndpoint
from resonant.dead_letters.advice import advise
from resonant.delivery.classification import classify
from resonant.delivery.failure_tables import RANKED
from resonant.delivery.verdict import Verdict
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Reason
from resonant.sinks.transport import tls_context
from support.advice import named_commands

BY_TYPE = {verdict for _, verdict in RANKED.values()}
BY_STATUS = {
    classify(UnexpectedStatus(status), now=0.0) for status in range(100, 600) if not 200 <= status < 300
}
WORKER_LOST = Verdict("unknown", "worker_lost", blame="local", maybe_processed=True)
DNS = [Verdict("transient", "dns_temporary"), Verdict("unknown", "dns_not_found")]
OUR_FAULT = {"cookie_conflict", "invalid_request", "stream_error", "endpoint_error"}
UNKNOWN = Verdict("unknown", "unknown", maybe_processed=True)
OAUTH = {"oauth_client_id": "me", "oauth_client_secret": "s3cret", "oauth_token_url": "https://token.example"}
# Settings that cannot be used, and a part of the advice.
SETTINGS = [
    ({"ca_file": "/absent"}, "`resonant endpoint update NAME --ca-file FILE`"),
    (
        {"client_certificate": "no PEM", "client_key": "no PEM"},
        "`resonant endpoint update NAME --client-cert FILE --client-key FILE`",
    ),
    ({"client_certificate": "no key"}, "--client-cert and --client-key to readable files"),
    (OAUTH | {"oauth_token_url": "token.example"}, "`resonant endpoint update NAME --oauth-token-url URL`"),
    (OAUTH | {"oauth_client_secret": ""}, "--oauth-client-secret-file FILE`"),
    ({"signing_secret": "s3cret"}, "`resonant endpoint rotate-secret NAME`"),
    ({"signing_secret": "whsk_AAAA"}, "`resonant endpoint rotate-secret NAME`"),
    ({"proxy": "proxy.example"}, "`resonant endpoint update NAME --proxy URL`"),
    ({"headers": "no JSON"}, "`resonant endpoint update NAME --header @FILE`"),
    ({"url": "ftp://hooks.example.com"}, "`resonant endpoint update NAME --url URL`"),
]
VERDICTS = {*BY_TYPE, *BY_STATUS, WORKER_LOST, *DNS, UNKNOWN}


def reason_of(verdict: Verdict) -> Reason:
    return "permanent" if verdict.category == "permanent" else "exhausted"


def advice_on(verdict: Verdict, reason: Reason | None = None) -> str:
    return advise(code=verdict.code, reason=reason or reason_of(verdict), category=verdict.category)


def refused(settings: dict[str, str]) -> str:
    """Return the recorded error of sending to an endpoint with these settings."""
    block = WebhookEndpoint(**{"url": "https://hooks.example.com"} | settings)
    with pytest.raises(EndpointError) as found:
        tls_context(block.to_endpoint("shop"))
    return f"EndpointError: {found.value}"


def advise_on(error: str) -> str:
    return advise(code="endpoint_error", reason="permanent", category="permanent", error=error)


def every_line() -> set[str]:
    every = {advice_on(verdict, reason) for verdict in VERDICTS for reason in get_args(Reason)}
    every |= {advise(code="", reason=reason, category="") for reason in get_args(Reason)}
    return every | {advise_on(refused(settings)) for settings, _ in SETTINGS}


def test_every_code_of_the_classifier_has_a_line_that_fits():
    for verdict in VERDICTS:
        advice = advice_on(verdict)
        assert advice
        assert "\n" not in advice
        # A replay skips permanent failures unless an option includes them.
        assert verdict.category != "permanent" or re.search("--include-permanent|purge", advice), verdict
        is_local = verdict.blame == "local" or verdict.code in OUR_FAULT
        assert verdict == WORKER_LOST or ("fault is local" in advice) == is_local, verdict
        assert "cancelled these" in advice_on(verdict, "cancelled")
        assert "workers were lost" in advice_on(verdict, "crashed")


@pytest.mark.parametrize(
    ("reason", "category", "code", "words"),
    [
        ("permanent", "permanent", "http_302", "fix the endpoint's URL"),
        ("permanent", "permanent", "http_400", "the receiver rejects these events"),
        ("permanent", "permanent", "http_401", "`resonant endpoint rotate-secret NAME`"),
        ("permanent", "permanent", "http_403", "credential"),
        ("permanent", "permanent", "http_404", "URL"),
        ("permanent", "permanent", "http_410", "gone for good"),
        ("permanent", "permanent", "http_431", "--mode structured"),
        ("permanent", "permanent", "http_413", "the receiver rejects these events"),
        ("permanent", "permanent", "tls_certificate", "`resonant endpoint update NAME --ca-file FILE`"),
        ("permanent", "permanent", "address_refused", "--allow-private"),
        ("permanent", "permanent", "value_error", "fault is local"),
        # By an override of the endpoint, or a rule.
        ("permanent", "permanent", "http_503", "--include-permanent"),
        ("permanent", "permanent", "throttled", "--include-permanent"),
        ("permanent", "permanent", "connect_refused", "--include-permanent"),
        ("exhausted", "transient", "http_407", "fault is local"),
        ("exhausted", "transient", "http_503", "wait until it answers"),
        ("exhausted", "transient", "http_511", "fault is local"),
        ("exhausted", "transient", "throttled", "--rate"),
        ("exhausted", "transient", "connect_refused", "wait until it answers"),
        ("exhausted", "transient", "read_timeout", "wait until it answers"),
        ("exhausted", "transient", "pool_full", "fault is local"),
        # By a Retry-After, as of a rate limit that answers 403, or by an override of the endpoint.
        ("exhausted", "transient", "http_403", "wait until it answers"),
        ("exhausted", "transient", "http_410", "wait until it answers"),
        ("permanent", "transient", "http_503", "wait until it answers"),
        ("exhausted", "unknown", "dns_not_found", "resolver"),
        ("exhausted", "unknown", "dns_not_found", "`resonant endpoint update NAME --url URL`"),
        ("exhausted", "unknown", "tls_error", "a port that speaks TLS"),
        ("exhausted", "unknown", "local_storage", "fault is local"),
        ("exhausted", "unknown", "unknown", "a rule"),
        ("crashed", "transient", "http_503", "workers were lost"),
        ("cancelled", "transient", "http_503", "`resonant audit`"),
        ("expired", "transient", "http_503", "max_age"),
        ("expired", "permanent", "event_expired", "purge --endpoint NAME --code event_expired"),
        ("cancelled", "", "", "cancelled these"),
        ("expired", "", "", "max_age"),
    ],
)
def test_the_line_names_the_repair(reason, category, code, words):
    advice = advise(code=code, reason=reason, category=category)
    assert words in advice
    assert category == "permanent" or "--include-permanent" not in advice


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("http_504", "probably processed"),
        ("read_timeout", "probably processed"),
        ("http_500", "possibly processed"),
    ],
)
def test_an_event_that_the_receiver_may_have_processed_is_checked_before_a_replay(code, words):
    failure = {"code": code, "reason": "exhausted", "category": "transient"}
    expected = f"{words}: check the receiver before a replay; {advise(**failure)}"
    assert advise(**failure, maybe_processed=True) == expected


def test_the_line_has_whole_commands_with_the_endpoint_and_an_event():
    def line(code: str) -> str:
        return advise(code=code, reason="permanent", category="permanent", endpoint="shop", event_id="a b")

    assert "`resonant endpoint update shop --url URL`" in line("http_404")
    assert "`resonant replay --endpoint shop --code http_404 --include-permanent`" in line("http_404")
    assert "`resonant detail 'a b'`" in line("http_400")
    of_source = advise(code="http_400", reason="permanent", category="permanent", source="/my shop")
    assert "`resonant detail ID --source '/my shop'`" in of_source


def test_the_commands_and_options_that_the_lines_name_exist():
    assert named_commands(every_line()) >= {
        "resonant endpoint update NAME --url URL",
        "resonant endpoint update NAME --ca-file FILE",
        "resonant replay --endpoint NAME --code http_404 --include-permanent",
        "resonant endpoint test NAME",
        "resonant endpoint remove NAME",
        "resonant detail ID",
        "resonant audit",
    }


@pytest.mark.parametrize(("settings", "repair"), SETTINGS)
def test_a_setting_that_cannot_be_used_is_corrected_here_and_not_at_the_receiver(settings, repair):
    advice = advise_on(refused(settings))
    assert advice.startswith("the fault is local (a setting of the endpoint): ")
    assert repair in advice
    assert "`resonant replay --endpoint NAME --code endpoint_error --include-permanent`" in advice
    assert "receiver" not in advice


def test_an_error_about_another_setting_is_found_by_a_test_of_the_endpoint():
    advice = advise_on("EndpointError: endpoint 'shop' is not configured completely: save it again")
    assert "correct the one that `resonant endpoint test NAME` names" in advice


def test_without_a_token_the_line_names_the_settings_of_the_token_server():
    advice = advise(code="oauth_token", reason="expired", category="transient")
    assert "`resonant endpoint update NAME --oauth-token-url URL`" in advice
    assert "--oauth-client-secret-file" in advice


def test_a_refused_client_certificate_is_replaced_here():
    advice = advise(code="tls_client_certificate", reason="permanent", category="permanent")
    assert "`resonant endpoint update NAME --client-cert FILE --client-key FILE`" in advice
    assert "`resonant endpoint show NAME` says when the saved one expires" in advice
