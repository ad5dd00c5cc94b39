"""The conditions of alerts: when they are bad, good, or undecided."""

from dataclasses import replace

import pytest

from resonant.metrics.alerts import ALL_ENDPOINTS, AlertCondition, Key, crossings
from resonant.metrics.conditions import Activity, WindowCounts, evaluate
from resonant.metrics.totals import Totals
from resonant.settings import Settings
from resonant.store.shared.gates import FailingType, Gate

NOW = 1_700_000_000.0
MINUTE, HOUR = 60.0, 3600.0
SETTINGS = Settings.model_construct()
WINDOW = SETTINGS.alert_window_seconds
QUIET = Totals(NOW, {"hooks": 1}, deliveries={("hooks", "retrying"): 1})
MAX_AGES = {("hooks", None): 72 * HOUR, ("hooks", "short"): 4 * HOUR, ("crm", None): 72 * HOUR}


def judge(condition, activity=None, totals=QUIET, endpoint="hooks", settings=SETTINGS):
    """Return the finding of one condition."""
    activities = {"hooks": activity} if activity else {}
    found = evaluate(totals, activities, settings, totals.taken_at, MAX_AGES)
    return {finding.key: finding for finding in found}[Key(condition, endpoint)]


def window(attempts, failed=0, retried=0):
    return Activity(window=WindowCounts(attempts=attempts, failed=failed, retried=retried))


def with_gate(state, totals=QUIET, **fields):
    """Return totals in which the gate of ``hooks`` is in this state."""
    return replace(totals, gates={"hooks": Gate("hooks", state, **fields)})


def test_no_condition_is_bad_without_activity():
    assert not [finding for finding in evaluate(QUIET, {}, SETTINGS, NOW, {}) if finding.is_bad]


@pytest.mark.parametrize(
    ("ahead", "is_bad"), [(0.0, False), (-2.0, False), (4.0, None), (-5.5, True), (40.0, True)]
)
def test_clocks_are_bad_if_one_differs_by_more_than_five_seconds(ahead, is_bad):
    finding = judge(AlertCondition.CLOCKS, totals=replace(QUIET, clock_ahead=ahead), endpoint=ALL_ENDPOINTS)
    assert finding.is_bad is is_bad
    assert (
        finding.text
        == f"the clock of a sending machine differs from the store's by {abs(ahead):.0f} s; the limit is 5 s"
    )


@pytest.mark.parametrize(
    ("attempts", "failed", "is_bad"),
    [
        pytest.param(20, 6, True, id="above the limit"),
        pytest.param(20, 5, None, id="at the limit"),
        pytest.param(100, 13, None, id="more than half of the limit"),
        pytest.param(100, 12, False, id="less than half of it"),
        pytest.param(1, 1, None, id="one event that failed"),
        pytest.param(19, 19, None, id="too few attempts"),
        pytest.param(1, 0, False, id="one that was delivered"),
        pytest.param(0, 0, None, id="no attempts"),
    ],
)
def test_an_error_rate_is_bad_above_the_limit_and_good_at_half_of_it(attempts, failed, is_bad):
    assert judge(AlertCondition.ERROR_RATE, window(attempts, failed)).is_bad is is_bad


@pytest.mark.parametrize(
    ("limit", "more", "is_bad"),
    [(5, 5, True), (5, 4, None), (5, 3, None), (5, 2, False), (5, -3, False), (1, 1, True), (1, 0, False)],
)
def test_dead_letters_are_bad_at_the_limit_and_good_below_half_of_it(limit, more, is_bad):
    activity = Activity(hour=WindowCounts(dead_letters=more))
    found = judge(
        AlertCondition.DEAD_LETTERS,
        activity,
        settings=Settings.model_construct(alert_dead_letters_per_hour=limit),
    )
    assert (found.is_bad, found.value) == (is_bad, max(0, more))


@pytest.mark.parametrize(("age", "is_bad"), [(73 * HOUR, True), (72 * HOUR, False)])
def test_a_dead_letter_may_wait_three_days(age, is_bad):
    totals = replace(QUIET, oldest_dead_at={"hooks": NOW - age})
    assert judge(AlertCondition.DEAD_LETTER_AGE, totals=totals).is_bad is is_bad


@pytest.mark.parametrize(
    ("now", "before", "is_bad"),
    [
        pytest.param((100, 30.0), (100, 10.0), True, id="three times"),
        pytest.param((100, 20.0), (100, 10.0), None, id="twice"),
        pytest.param((100, 15.1), (100, 10.0), None, id="more than halfway back"),
        pytest.param((100, 15.0), (100, 10.0), False, id="halfway back"),
        pytest.param((99, 99.0), (100, 10.0), None, id="few now"),
        pytest.param((100, 100.0), (99, 9.9), None, id="few before"),
        pytest.param((51, 51.0), (100, 10.0), None, id="more than half as many now"),
        pytest.param((50, 50.0), (100, 10.0), False, id="half as many now"),
        pytest.param((100, 100.0), (50, 5.0), False, id="half as many before"),
        pytest.param((100, 20.0), (100, 9.0), True, id="0.11 s more"),
        pytest.param((100, 12.0), (100, 5.0), None, id="0.07 s more"),
        pytest.param((100, 1.2), (100, 0.5), False, id="5 ms to 12 ms"),
        pytest.param((100, 100.0), (100, 0.0), False, id="no time at all before"),
        pytest.param((0, 0.0), (0, 0.0), False, id="nothing"),
    ],
)
def test_latency_is_compared_with_the_same_hour_of_the_day_before(now, before, is_bad):
    hour, earlier = (WindowCounts(attempts=attempts, seconds=seconds) for attempts, seconds in (now, before))
    assert judge(AlertCondition.LATENCY, Activity(hour=hour, before=earlier)).is_bad is is_bad


@pytest.mark.parametrize(
    ("attempts", "retried", "is_bad"),
    [
        pytest.param(110, 60, True, id="above the limit"),
        pytest.param(110, 55, None, id="at the limit"),
        pytest.param(110, 28, None, id="more than half of the limit"),
        pytest.param(110, 27, False, id="less than half of it"),
        pytest.param(99, 99, None, id="too few attempts"),
        pytest.param(51, 51, None, id="more than half of that"),
        pytest.param(50, 50, False, id="half of that"),
        pytest.param(0, 0, False, id="no attempts"),
    ],
)
def test_retries_are_counted_over_all_endpoints(attempts, retried, is_bad):
    half = attempts // 2
    activities = {"a": window(half, retried=retried), "b": window(attempts - half)}
    found = {each.key: each for each in evaluate(QUIET, activities, SETTINGS, NOW, {})}
    assert found[Key(AlertCondition.RETRIES, ALL_ENDPOINTS)].is_bad is is_bad


@pytest.mark.parametrize(
    ("state", "is_bad"), [("normal", True), ("paced", True), ("probing", False), ("paused", False)]
)
def test_probes_are_not_counted_as_retries(state, is_bad):
    retried = window(200, failed=200, retried=200)
    found = judge(AlertCondition.RETRIES, retried, with_gate(state), endpoint=ALL_ENDPOINTS)
    assert found.is_bad is is_bad


@pytest.mark.parametrize(
    ("due", "seen", "gate", "is_bad"),
    [
        pytest.param(601.0, 601.0, None, True, id="overdue and silent"),
        pytest.param(601.0, None, None, True, id="overdue, never claimed"),
        pytest.param(601.0, 599.0, None, False, id="overdue, but claimed"),
        pytest.param(599.0, 9999.0, None, False, id="not overdue"),
        pytest.param(7200, 7200, ("paused", 7200, {"paused_by": "ada"}), False, id="paused"),
        pytest.param(7200, 7200, ("normal", 9 * 60, {}), False, id="resumed a moment ago"),
        pytest.param(7200, 7200, ("normal", 11 * 60, {}), True, id="resumed, and nobody sends"),
        pytest.param(
            7200, 7200, ("normal", 3600, {"not_before": NOW - 60}), False, id="a Retry-After just ended"
        ),
        pytest.param(7200, 7200, ("probing", 3600, {"probe_at": NOW - 660}), True, id="nobody probes"),
        pytest.param(
            7200, 7200, ("probing", 3600, {"probe_at": NOW - 540}), False, id="a probe was due just now"
        ),
        pytest.param(7200, 30, ("probing", 7200, {}), False, id="probes are sent"),
    ],
)
def test_the_drain_is_silent_if_a_delivery_is_overdue_and_neither_held_nor_claimed(due, seen, gate, is_bad):
    last_seen = {} if seen is None else {"hooks": NOW - seen}
    totals = replace(QUIET, oldest_due_at={"hooks": NOW - due}, last_seen_at=last_seen)
    if gate:
        state, age, fields = gate
        totals = with_gate(state, totals, since=NOW - age, **fields)
    assert judge(AlertCondition.DRAIN_SILENT, totals=totals).is_bad is is_bad


@pytest.mark.parametrize(
    ("state", "fields", "is_bad"),
    [
        pytest.param(
            "probing", {"failing_since": NOW - 31 * 60, "since": NOW - 10}, True, id="longer than the limit"
        ),
        pytest.param(
            "probing", {"failing_since": NOW - 29 * 60, "since": NOW - HOUR}, False, id="down for less"
        ),
        pytest.param("probing", {"since": NOW - 31 * 60}, True, id="since an unknown time"),
        pytest.param("paced", {"since": NOW - 59}, None, id="paced for a moment, by a probe that worked"),
        pytest.param("paced", {"since": NOW - 61}, False, id="paced for a while"),
        pytest.param("normal", {"since": NOW - 1}, False, id="normal"),
        pytest.param("paused", {"since": 0, "failing_since": 0, "paused_by": "ada"}, False, id="paused"),
    ],
)
def test_an_endpoint_that_is_down_for_long_is_an_alert(state, fields, is_bad):
    assert judge(AlertCondition.PROBING, totals=with_gate(state, **fields)).is_bad is is_bad


@pytest.mark.parametrize("deliveries", [{}, {("hooks", "delivered"): 5, ("crm", "pending"): 1}])
def test_an_endpoint_without_deliveries_to_probe_with_is_no_alert(deliveries):
    totals = replace(with_gate("probing", failing_since=NOW - 2 * HOUR), deliveries=deliveries)
    assert not judge(AlertCondition.PROBING, totals=totals).is_bad


def failing(**minutes):
    """Return the types that began to fail so many minutes ago, and were tried just now."""
    return tuple(
        FailingType(f"order.{name}", NOW - since * MINUTE, "http_500", NOW + 1, NOW - 1)
        for name, since in minutes.items()
    )


FORGOTTEN = replace(failing(refunded=90)[0], tried_at=NOW - HOUR)


@pytest.mark.parametrize(
    ("state", "types", "is_bad"),
    [
        pytest.param("normal", failing(refunded=31), True, id="longer than the limit"),
        pytest.param("paced", failing(refunded=31), True, id="also while paced"),
        pytest.param("normal", failing(refunded=30), None, id="at the limit"),
        pytest.param("normal", failing(refunded=16), None, id="more than half of the limit"),
        pytest.param("normal", failing(refunded=15), False, id="half of the limit"),
        pytest.param("normal", failing(paid=1, refunded=31), True, id="the longest counts"),
        pytest.param("normal", (), False, id="none fails"),
        pytest.param("normal", (FORGOTTEN,), False, id="not tried for an hour"),
        pytest.param("probing", failing(refunded=31), None, id="the endpoint is down"),
        pytest.param("probing", (), None, id="the endpoint is down, and the type forgotten"),
        pytest.param("paused", failing(refunded=31), False, id="the endpoint is paused"),
    ],
)
def test_an_event_type_that_fails_for_long_while_others_work_is_an_alert(state, types, is_bad):
    found = judge(AlertCondition.FAILING_TYPES, totals=with_gate(state, since=NOW, failing=types))
    assert found.is_bad is is_bad


def test_a_type_that_begins_to_fail_while_another_recovers_neither_ends_nor_raises_the_alert():
    key = Key(AlertCondition.FAILING_TYPES, "hooks")

    def crossed(raised_at, **minutes):
        findings = evaluate(with_gate("normal", failing=failing(**minutes)), {}, SETTINGS, NOW, MAX_AGES)
        return [each.what for each in crossings(findings, raised_at, WINDOW, NOW) if each.key == key]

    assert crossed({}, refunded=40, paid=20) == ["raised"]
    assert crossed({}, paid=20) == []
    assert crossed({key: NOW}, paid=20) == []
    assert crossed({key: NOW}, paid=10) == ["recovered"]


def test_an_endpoint_paused_by_a_410_is_an_alert_at_once_and_an_operators_pause_is_not():
    gone = replace(with_gate("paused", since=NOW, reason="it answered 410"), held={"hooks": 12})
    found = judge(AlertCondition.GONE, totals=gone)
    assert found.is_bad
    assert found.text == (
        "hooks: it answered 410 Gone, so it is paused until an operator resumes it; deliveries held: 12"
    )
    assert not judge(AlertCondition.GONE, totals=with_gate("paused", since=NOW, paused_by="ada")).is_bad
    assert not judge(AlertCondition.GONE).is_bad


def held(began_ago, *, state="paused", policy=None, **fields):
    oldest = {("hooks", policy): NOW - began_ago, ("crm", None): NOW - 1_000 * HOUR}
    return replace(with_gate(state, **fields), oldest_round_at=oldest)


@pytest.mark.parametrize(
    ("totals", "is_bad"),
    [
        pytest.param(held(37 * HOUR), True, id="over half of the policy's max_age"),
        pytest.param(held(35 * HOUR), False, id="under half of it"),
        pytest.param(held(3 * HOUR, policy="short"), True, id="over half of the producer's max_age"),
        pytest.param(held(37 * HOUR, state="probing"), True, id="probing"),
        pytest.param(held(37 * HOUR, state="paced"), True, id="paced"),
        pytest.param(held(37 * HOUR, state="normal"), False, id="normal"),
        pytest.param(
            held(37 * HOUR, state="normal", not_before=NOW + 1), True, id="until a Retry-After ends"
        ),
        pytest.param(held(37 * HOUR, policy="of an unknown length"), None, id="an unknown policy"),
        pytest.param(with_gate("paused"), False, id="nothing to hold"),
        pytest.param(QUIET, False, id="no gate"),
    ],
)
def test_deliveries_held_beyond_half_of_their_max_age_are_an_alert(totals, is_bad):
    assert judge(AlertCondition.HELD, totals=totals).is_bad is is_bad


@pytest.mark.parametrize(
    ("types", "of_types", "value", "said"),
    [
        pytest.param(
            failing(refunded=90), 3, 0.75, "its type order.refunded fails, and its oldest", id="one type"
        ),
        pytest.param(
            failing(refunded=90, paid=9),
            3,
            0.75,
            "its types order.paid, order.refunded fail, and their oldest",
            id="two types",
        ),
        pytest.param(
            (*failing(paid=9), FORGOTTEN), 1, 0.25, "its type order.paid fails", id="a forgotten type"
        ),
    ],
)
def test_only_the_deliveries_of_failing_types_count_as_held_while_the_others_are_sent(
    types, of_types, value, said
):
    totals = held(37 * HOUR, state="normal", failing=types)
    assert not judge(AlertCondition.HELD, totals=totals).is_bad, "nothing is held"
    ages = {("hooks", "short"): NOW - of_types * HOUR, ("crm", "short"): NOW - 1_000 * HOUR}
    totals = replace(totals, oldest_held_round_at=ages)

    found = judge(AlertCondition.HELD, totals=totals)

    assert found.value == value
    assert found.text.startswith(f"hooks: {said}")

    of_all = replace(totals, gates=with_gate("paced", failing=types).gates)
    assert judge(AlertCondition.HELD, totals=of_all).text.startswith(
        "hooks: its gate is paced, and its oldest"
    )


def test_of_several_policies_the_delivery_nearest_to_its_end_counts():
    ages = {("hooks", None): NOW - 30 * HOUR, ("hooks", "short"): NOW - 3 * HOUR}
    found = judge(AlertCondition.HELD, totals=replace(with_gate("probing"), oldest_round_at=ages))
    assert (found.value, found.threshold) == (0.75, 0.5)
    assert found.text == (
        "hooks: its gate is probing, and its oldest delivery has waited 3.0 of the 4 hours of its max_age; "
        "the limit is 50%"
    )


@pytest.mark.parametrize(
    ("found", "value", "limit", "text"),
    [
        (
            judge(AlertCondition.ERROR_RATE, window(40, failed=20)),
            0.5,
            0.25,
            "hooks: 50% of 40 attempts in 15 minutes failed, the limit is 25%",
        ),
        (
            judge(AlertCondition.PROBING, totals=with_gate("probing", failing_since=NOW - 2 * HOUR)),
            2 * HOUR,
            30 * MINUTE,
            "hooks: it has been down for 120 minutes and gets only probes, the limit is 30",
        ),
        (
            judge(AlertCondition.FAILING_TYPES, totals=with_gate("normal", failing=failing(refunded=35))),
            35 * MINUTE,
            30 * MINUTE,
            "hooks: order.refunded has failed for 35 minutes while other types work, the limit is 30",
        ),
        (
            judge(
                AlertCondition.FAILING_TYPES,
                totals=with_gate("paced", failing=failing(paid=1, refunded=35, sent=34)),
            ),
            35 * MINUTE,
            30 * MINUTE,
            "hooks: order.refunded has failed for 35 minutes while other types work, the limit is 30; 2 more types fail",
        ),
    ],
    ids=["error rate", "outage", "failing type", "failing types"],
)
def test_the_text_has_the_numbers(found, value, limit, text):
    assert (found.value, found.threshold, found.text) == (value, limit, text)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (AlertCondition.PROBING, "hooks: it is not down, its gate is normal"),
        (AlertCondition.FAILING_TYPES, "hooks: no event type fails while others work"),
        (AlertCondition.GONE, "hooks: it is not paused because of a 410"),
        (AlertCondition.HELD, "hooks: its gate holds no deliveries"),
    ],
)
def test_an_alert_that_ends_describes_the_current_state(condition, text):
    raised_at = {Key(condition, "hooks"): NOW - HOUR}
    findings = evaluate(with_gate("normal"), {}, SETTINGS, NOW, MAX_AGES)
    [recovered] = crossings(findings, raised_at, WINDOW, NOW)
    assert (recovered.what, recovered.text) == ("recovered", text)


@pytest.mark.parametrize("state", ["probing", "paused"])
@pytest.mark.parametrize("activity", [{}, {"hooks": window(3, failed=3)}])
def test_an_error_rate_goes_on_until_the_endpoint_delivers(state, activity):
    totals = with_gate(state, failing_since=NOW, paused_by="ada")
    findings = evaluate(totals, activity, SETTINGS, NOW, MAX_AGES)
    assert crossings(findings, {Key(AlertCondition.ERROR_RATE, "hooks"): NOW - HOUR}, WINDOW, NOW) == []
