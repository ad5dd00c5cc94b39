"""What to do about dead letters: every code and reason has a line, and what the line names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import typer

from resonant.cli import app
from resonant.dead_letters.advice import advise
from resonant.delivery.classification import _LOCAL_STATUSES, classify
from resonant.delivery.failure_tables import RANKED
from resonant.delivery.verdict import Verdict
from resonant.errors import UnexpectedStatus
from resonant.events import Reason

TABLE = json.loads(Path(__file__).parents[1].joinpath("delivery", "classification.json").read_text())
BY_TYPE = sorted({verdict for _, verdict in RANKED.values()}, key=str)
BY_STATUS = {
    status: classify(UnexpectedStatus(status), now=0.0)
    for status in range(100, 600)
    if not 200 <= status < 300
}
WORKER_LOST = Verdict("unknown", "worker_lost", blame="local", maybe_processed=True)
DNS = [Verdict("transient", "dns_temporary"), Verdict("unknown", "dns_not_found")]
OUR_REQUESTS_FAULT = {"cookie_conflict", "invalid_request", "stream_error"}
UNKNOWN = Verdict("unknown", "unknown", maybe_processed=True)
VERDICTS = {*BY_TYPE, *BY_STATUS.values(), WORKER_LOST, *DNS, UNKNOWN}


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


@pytest.mark.parametrize(
    "verdict", sorted(VERDICTS, key=str), ids=lambda each: f"{each.code}-{each.category}"
)
def test_every_code_of_the_classifier_has_a_line_that_fits(verdict):
    advice = advice_on(verdict)

    assert advice
    assert "\n" not in advice
    if verdict.category == "permanent":
        # A replay leaves these out unless it is told not to; what mends nothing is removed.
        assert "--include-permanent" in advice or "purge" in advice
    if verdict != WORKER_LOST:
        assert ("fault is local" in advice) == (
            verdict.blame == "local" or verdict.code in OUR_REQUESTS_FAULT
        )


@pytest.mark.parametrize(
    ("code", "category", "words"),
    [
        ("http_302", "permanent", "fix the endpoint's URL"),
        ("http_400", "permanent", "the receiver rejects these events"),
        ("http_401", "permanent", "credential"),
        ("http_403", "permanent", "credential"),
        ("http_404", "permanent", "URL"),
        ("http_407", "transient", "fault is local"),
        ("http_409", "permanent", "the receiver rejects these events"),
        ("http_410", "permanent", "gone for good"),
        ("http_413", "permanent", "the receiver rejects these events"),
        ("http_500", "transient", "wait until it answers"),
        ("http_503", "transient", "wait until it answers"),
        ("http_511", "transient", "fault is local"),
        ("throttled", "transient", "--rate"),
        ("connect_refused", "transient", "wait until it answers"),
        ("read_timeout", "transient", "wait until it answers"),
        ("tls_certificate", "permanent", "certificate"),
        ("dns_not_found", "unknown", "resolver"),
        ("dns_not_found", "unknown", "`resonant endpoint update NAME --url URL`"),
        ("tls_error", "unknown", "a port that speaks TLS"),
        ("address_refused", "permanent", "--allow-private"),
        ("http_401", "permanent", "`resonant endpoint rotate-secret NAME`"),
        ("pool_full", "transient", "fault is local"),
        ("local_storage", "unknown", "fault is local"),
        ("value_error", "permanent", "fault is local"),
        ("unknown", "unknown", "a rule"),
    ],
)
def test_the_line_names_the_repair(code, category, words):
    verdict = Verdict(category, code)
    assert words in advice_on(verdict)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("crashed", "workers were lost"),
        ("cancelled", "`resonant audit`"),
        ("expired", "max_age"),
        ("exhausted", "wait until it answers"),
        ("permanent", "wait until it answers"),
    ],
)
def test_every_reason_has_a_line_of_its_own_where_the_code_says_little(reason, words):
    assert words in advise(code="http_503", reason=reason, category="transient")


def test_advice_names_a_cancellation_or_a_crash_for_every_code():
    for verdict in VERDICTS:
        assert "cancelled these" in advice_on(verdict, "cancelled")
        assert "workers were lost" in advice_on(verdict, "crashed")


@pytest.mark.parametrize("code", ["http_401", "http_403", "http_404", "http_410"])
def test_a_status_that_is_transient_here_is_no_matter_of_credential_or_url(code):
    # By a Retry-After, as of a rate limit that answers 403, or by the endpoint's own override.
    advice = advise(code=code, reason="exhausted", category="transient")

    assert "wait until it answers" in advice
    assert "--include-permanent" not in advice


@pytest.mark.parametrize("code", ["http_503", "throttled", "connect_refused"])
def test_a_failure_that_is_permanent_by_an_override_or_a_rule_can_be_replayed_by_its_line(code):
    assert "--include-permanent" in advise(code=code, reason="permanent", category="permanent")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("http_504", "probably processed"),
        ("read_timeout", "probably processed"),
        ("http_500", "possibly processed"),
    ],
)
def test_what_the_receiver_may_have_processed_is_checked_before_a_replay(code, words):
    advice = advise(code=code, reason="exhausted", category="transient", maybe_processed=True)

    assert advice.startswith(f"{words}: check the receiver before a replay; ")
    assert advice.endswith(advise(code=code, reason="exhausted", category="transient"))


def test_a_dead_letter_without_a_failure_has_a_line_too():
    assert "cancelled these" in advise(code="", reason="cancelled", category="")
    assert "max_age" in advise(code="", reason="expired", category="")


def test_every_status_of_the_table_is_among_the_codes():
    numbers = {row["status"] for row in TABLE["http"] if isinstance(row["status"], int)}
    assert {status for status in numbers if status >= 300} <= BY_STATUS.keys()
    assert {status for status, verdict in BY_STATUS.items() if verdict.blame == "local"} == _LOCAL_STATUSES


def test_the_line_has_whole_commands_with_the_endpoint_and_an_event():
    def line(code: str) -> str:
        return advise(code=code, reason="permanent", category="permanent", endpoint="shop", event_id="a b")

    assert "`resonant endpoint update shop --url URL`" in line("http_404")
    assert "`resonant replay --endpoint shop --code http_404 --include-permanent`" in line("http_404")
    assert "`resonant detail 'a b'`" in line("http_400")


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
    assert options == {
        "--allow-private",
        "--code",
        "--endpoint",
        "--header",
        "--include-permanent",
        "--rate",
        "--reason",
        "--url",
    }
    assert {"--rate", "--include-permanent"} <= known["resonant replay"]
