"""Advice on dead letters: every code and reason has a line, and the commands and options that it names exist."""

import re
from typing import get_args

import pytest
import typer

from resonant.cli import app
from resonant.dead_letters.advice import advise
from resonant.delivery.classification import classify
from resonant.delivery.failure_tables import RANKED
from resonant.delivery.verdict import Verdict
from resonant.errors import UnexpectedStatus
from resonant.events import Reason

BY_TYPE = {verdict for _, verdict in RANKED.values()}
BY_STATUS = {
    classify(UnexpectedStatus(status), now=0.0) for status in range(100, 600) if not 200 <= status < 300
}
WORKER_LOST = Verdict("unknown", "worker_lost", blame="local", maybe_processed=True)
DNS = [Verdict("transient", "dns_temporary"), Verdict("unknown", "dns_not_found")]
OUR_REQUESTS_FAULT = {"cookie_conflict", "invalid_request", "stream_error"}
UNKNOWN = Verdict("unknown", "unknown", maybe_processed=True)
VERDICTS = {*BY_TYPE, *BY_STATUS, WORKER_LOST, *DNS, UNKNOWN}


def reason_of(verdict: Verdict) -> Reason:
    return "permanent" if verdict.category == "permanent" else "exhausted"


def advice_on(verdict: Verdict, reason: Reason | None = None) -> str:
    return advise(code=verdict.code, reason=reason or reason_of(verdict), category=verdict.category)


def every_line() -> set[str]:
    every = {advice_on(verdict, reason) for verdict in VERDICTS for reason in get_args(Reason)}
    return every | {advise(code="", reason=reason, category="") for reason in get_args(Reason)}


def commands() -> dict[str, set[str]]:
    """Return every command, as it is typed, with its options."""
    found: dict[str, set[str]] = {}

    def walk(command, name: str) -> None:
        found[name] = {option for each in command.params for option in each.opts}
        for child in getattr(command, "commands", {}).values():
            walk(child, f"{name} {child.name}")

    walk(typer.main.get_command(app), "resonant")
    return found


def test_every_code_of_the_classifier_has_a_line_that_fits():
    for verdict in VERDICTS:
        advice = advice_on(verdict)
        assert advice
        assert "\n" not in advice
        # A replay skips permanent failures unless an option includes them.
        assert verdict.category != "permanent" or re.search("--include-permanent|purge", advice), verdict
        is_local = verdict.blame == "local" or verdict.code in OUR_REQUESTS_FAULT
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
        ("permanent", "permanent", "tls_certificate", "certificate"),
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
    known = commands()
    named = {command for line in every_line() for command in re.findall(r"`(resonant [^`]*)`", line)}
    options = {option for line in every_line() for option in re.findall(r"--[a-z-]+", line)}

    assert named >= {
        "resonant endpoint update NAME --url URL",
        "resonant replay --endpoint NAME --code http_404 --include-permanent",
        "resonant endpoint test NAME",
        "resonant endpoint remove NAME",
        "resonant detail ID",
        "resonant audit",
    }
    for command in named:
        words = command.split()
        name = next(" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in known)
        assert name in known, command
        assert {word for word in words if word.startswith("-")} <= known[name], command
    assert options <= set().union(*known.values())
