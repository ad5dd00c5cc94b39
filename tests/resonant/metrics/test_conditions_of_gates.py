"""The alerts of gates, and the alerts that a gate must not raise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resonant.metrics.alerts import ALL_ENDPOINTS, Condition, Key, crossings
from resonant.metrics.conditions import Activity, evaluate
from resonant.metrics.totals import Totals, read_totals
from resonant.settings import Thresholds
from resonant.store.shared.gates import Gate, GateChange, change_gate

NOW = 1_700_000_000.0
MINUTE, HOUR = 60.0, 3600.0
THRESHOLDS = Thresholds()
QUIET = Totals(NOW, {"hooks": 1}, deliveries={("hooks", "retrying"): 1})
MAX_AGES = {("hooks", None): 72 * HOUR, ("hooks", "short"): 4 * HOUR, ("crm", None): 72 * HOUR}


def of(state, **fields):
    """Return totals in which the gate of ``hooks`` is in this state."""
    return replace(QUIET, gates={"hooks": Gate("hooks", state, **fields)})


def judge(condition, totals, activity=None, endpoint="hooks", max_ages=MAX_AGES):
    """Return the finding of one condition, if there is one."""
    found = evaluate(totals, activity or {}, THRESHOLDS, totals.taken_at, max_ages)
    return {finding.key: finding for finding in found}.get(Key(condition, endpoint))


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (Gate("hooks", "probing", failing_since=NOW - 31 * MINUTE, since=NOW - 10), True),
        (Gate("hooks", "probing", failing_since=NOW - 29 * MINUTE, since=NOW - HOUR), False),
        (Gate("hooks", "probing", since=NOW - 31 * MINUTE), True),
        (Gate("hooks", "paced", since=NOW - 59), None),
        (Gate("hooks", "paced", since=NOW - 61), False),
        (Gate("hooks", "normal", since=NOW - 1), False),
        (Gate("hooks", "paused", since=NOW - HOUR, failing_since=NOW - HOUR, paused_by="ada"), False),
    ],
    ids=[
        "down for longer than the limit",
        "down for less",
        "since an unknown time",
        "paced for a moment, by a probe that worked",
        "paced for a while",
        "normal",
        "paused",
    ],
)
def test_an_endpoint_that_is_probing_for_long_is_an_alert(gate, expected):
    found = judge(Condition.PROBING, replace(QUIET, gates={"hooks": gate}))
    assert (found and found.is_bad) is expected


@pytest.mark.parametrize("deliveries", [{}, {("hooks", "delivered"): 5, ("crm", "pending"): 1}])
def test_an_endpoint_without_deliveries_to_probe_with_is_no_alert(deliveries):
    totals = replace(of("probing", failing_since=NOW - 2 * HOUR), deliveries=deliveries)
    assert not judge(Condition.PROBING, totals).is_bad


def test_the_text_of_a_long_outage_has_the_numbers():
    found = judge(Condition.PROBING, of("probing", failing_since=NOW - 2 * HOUR))
    assert found.text == "hooks: it has been down for 120 minutes and gets only probes, the limit is 30"
    assert (found.value, found.threshold) == (2 * HOUR, 30 * MINUTE)


def test_an_endpoint_paused_by_a_410_is_an_alert_at_once_and_an_operators_pause_is_not():
    gone = replace(of("paused", since=NOW, reason="it answered 410"), held={"hooks": 12})
    found = judge(Condition.GONE, gone)
    assert found.is_bad
    assert found.text == (
        "hooks: it answered 410 Gone, so it is paused until an operator resumes it; deliveries held: 12"
    )
    assert not judge(Condition.GONE, of("paused", since=NOW, paused_by="ada")).is_bad
    assert not judge(Condition.GONE, QUIET).is_bad


def held(began_ago, *, state="paused", policy=None, **fields):
    oldest = {("hooks", policy): NOW - began_ago, ("crm", None): NOW - 1_000 * HOUR}
    return replace(of(state, **fields), oldest_round_at=oldest)


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        (held(37 * HOUR), True),
        (held(35 * HOUR), False),
        (held(3 * HOUR, policy="short"), True),
        (held(37 * HOUR, state="probing"), True),
        (held(37 * HOUR, state="paced"), True),
        (held(37 * HOUR, state="normal"), False),
        (held(37 * HOUR, state="normal", not_before=NOW + 1), True),
        (held(37 * HOUR, policy="of an unknown length"), None),
        (of("paused"), False),
        (QUIET, False),
    ],
    ids=[
        "over half of the policy's max_age",
        "under half of it",
        "over half of the max_age that its producer asked for",
        "probing",
        "paced",
        "normal",
        "until a Retry-After ends",
        "an unknown policy",
        "nothing to hold",
        "no gate",
    ],
)
def test_deliveries_held_beyond_half_of_their_max_age_are_an_alert(totals, expected):
    found = judge(Condition.HELD, totals)
    assert (found and found.is_bad) is expected


def test_of_several_policies_the_delivery_nearest_to_its_end_counts():
    ages = {("hooks", None): NOW - 30 * HOUR, ("hooks", "short"): NOW - 3 * HOUR}
    found = judge(Condition.HELD, replace(of("probing"), oldest_round_at=ages))
    assert (found.value, found.threshold) == (0.75, 0.5)
    assert found.text == (
        "hooks: its gate is probing, and its oldest delivery has waited 3.0 of the 4 hours of its max_age; "
        "the limit is 50%"
    )


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (Condition.PROBING, "hooks: it is not down, its gate is normal"),
        (Condition.GONE, "hooks: it is not paused because of a 410"),
        (Condition.HELD, "hooks: its gate holds no deliveries"),
    ],
)
def test_an_alert_that_ends_describes_the_current_state(condition, text):
    raised_at = {Key(condition, "hooks"): NOW - HOUR}
    findings = evaluate(of("normal"), {}, THRESHOLDS, NOW, MAX_AGES)
    [recovered] = crossings(findings, raised_at, THRESHOLDS, NOW)
    assert (recovered.what, recovered.text) == ("recovered", text)


LATE = replace(QUIET, oldest_due_at={"hooks": NOW - 2 * HOUR}, last_seen_at={"hooks": NOW - 2 * HOUR})


@pytest.mark.parametrize(
    ("gate", "is_bad"),
    [
        (None, True),
        (Gate("hooks", "paused", since=NOW - 2 * HOUR, paused_by="ada"), False),
        (Gate("hooks", "normal", since=NOW - 9 * MINUTE), False),
        (Gate("hooks", "normal", since=NOW - 11 * MINUTE), True),
        (Gate("hooks", "normal", since=NOW - HOUR, not_before=NOW - MINUTE), False),
        (Gate("hooks", "probing", since=NOW - HOUR, probe_at=NOW - 11 * MINUTE), True),
        (Gate("hooks", "probing", since=NOW - HOUR, probe_at=NOW - 9 * MINUTE), False),
    ],
    ids=[
        "no gate",
        "paused",
        "resumed a moment ago",
        "resumed, and nobody sends",
        "a Retry-After just ended",
        "nobody probes",
        "a probe was due a moment ago",
    ],
)
def test_held_deliveries_do_not_make_the_drain_silent(gate, is_bad):
    totals = LATE if gate is None else replace(LATE, gates={"hooks": gate})
    assert judge(Condition.DRAIN_SILENT, totals).is_bad is is_bad


def test_probes_are_a_sign_of_a_worker():
    totals = replace(LATE, last_seen_at={"hooks": NOW - 30}, gates={"hooks": Gate("hooks", "probing")})
    assert not judge(Condition.DRAIN_SILENT, totals).is_bad


ALL_RETRIED = Activity(attempts=200, failed=200, retried=200)


@pytest.mark.parametrize(
    ("state", "is_bad"), [("normal", True), ("paced", True), ("probing", False), ("paused", False)]
)
def test_probes_are_not_among_the_retries_that_dominate(state, is_bad):
    found = judge(Condition.RETRIES, of(state), {"hooks": ALL_RETRIED}, endpoint=ALL_ENDPOINTS)
    assert found.is_bad is is_bad


@pytest.mark.parametrize("state", ["probing", "paused"])
def test_an_error_rate_goes_on_until_the_endpoint_delivers(state):
    totals = of(state, failing_since=NOW, paused_by="ada")
    raised_at = {Key(Condition.ERROR_RATE, "hooks"): NOW - HOUR}
    for activity in ({}, {"hooks": Activity(attempts=3, failed=3)}):
        findings = evaluate(totals, activity, THRESHOLDS, NOW, MAX_AGES)
        assert crossings(findings, raised_at, THRESHOLDS, NOW) == []


def test_a_pause_raises_no_alert_but_that_deliveries_are_held_for_long(desk):
    desk.enqueue("evt_1", "evt_2", endpoint="hooks")
    desk.claim(1, endpoint="hooks")
    gate = Gate("hooks")

    def change(state, **fields):
        nonlocal gate
        written = GateChange(gate, replace(gate, state=state, since=desk.clock(), **fields))
        assert desk.write(change_gate, written)
        gate = written.result

    def bad():
        totals = desk.read(read_totals, now=desk.clock())
        findings = evaluate(totals, {}, THRESHOLDS, totals.taken_at, MAX_AGES)
        return [finding.key.condition for finding in findings if finding.is_bad]

    change("paused", paused_by="ada")
    desk.clock.advance(HOUR)
    assert bad() == []
    desk.clock.advance(36 * HOUR)
    assert bad() == [Condition.HELD]
    change("normal", paused_by=None)
    assert bad() == []
    desk.clock.advance(11 * MINUTE)
    assert bad() == [Condition.DRAIN_SILENT]
