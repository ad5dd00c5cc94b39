"""The conditions of alerts: when they are bad, good, or not judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resonant.metrics.alerts import ALL_ENDPOINTS, Condition, Key, crossings
from resonant.metrics.conditions import Activity, evaluate
from resonant.metrics.totals import Totals
from resonant.settings import Thresholds

NOW = 1_700_000_000.0
HOUR = 3600.0
THRESHOLDS = Thresholds()
QUIET = Totals(NOW, {"hooks": 1})


def judge(condition, activity=None, totals=QUIET, endpoint="hooks", thresholds=THRESHOLDS):
    """Return the finding of one condition, if there is one."""
    found = evaluate(totals, {"hooks": activity or Activity()}, thresholds, NOW, {})
    return {finding.key: finding for finding in found}.get(Key(condition, endpoint))


def test_a_quiet_store_has_nothing_bad():
    assert not [finding for finding in evaluate(QUIET, {}, THRESHOLDS, NOW, {}) if finding.is_bad]


@pytest.mark.parametrize(
    ("attempts", "failed", "expected"),
    [
        (20, 6, True),
        (20, 5, None),
        (100, 13, None),
        (100, 12, False),
        (1, 1, None),
        (19, 19, None),
        (1, 0, False),
        (0, 0, None),
    ],
    ids=[
        "above the limit",
        "at the limit",
        "more than half of the limit",
        "less than half of it",
        "one event that failed",
        "too few attempts",
        "one that was delivered",
        "no attempts",
    ],
)
def test_an_error_rate_is_bad_above_the_limit_and_good_at_half_of_it(attempts, failed, expected):
    finding = judge(Condition.ERROR_RATE, Activity(attempts=attempts, failed=failed))
    assert (None if finding is None else finding.is_bad) is expected


def test_the_text_of_an_error_rate_has_the_numbers():
    finding = judge(Condition.ERROR_RATE, Activity(attempts=40, failed=20))
    assert finding.text == "hooks: 50% of 40 attempts in 15 minutes failed, the limit is 25%"
    assert (finding.value, finding.threshold) == (0.5, 0.25)


def is_bad(finding):
    """Return the judgement; None if there is none."""
    return None if finding is None else finding.is_bad


@pytest.mark.parametrize(("more", "expected"), [(5, True), (4, None), (3, None), (2, False), (-3, False)])
def test_dead_letters_are_bad_at_the_limit_and_good_below_half_of_it(more, expected):
    assert is_bad(judge(Condition.DEAD_LETTERS, Activity(dead_letters=more))) is expected


def test_one_dead_letter_may_be_the_limit():
    thresholds = replace(THRESHOLDS, dead_letters=1)
    found = [
        judge(Condition.DEAD_LETTERS, Activity(dead_letters=n), thresholds=thresholds) for n in (1, 0, -3)
    ]
    assert [(finding.is_bad, finding.value) for finding in found] == [(True, 1), (False, 0), (False, 0)]


@pytest.mark.parametrize(("age", "is_bad"), [(73 * HOUR, True), (72 * HOUR, False)])
def test_a_dead_letter_may_wait_three_days(age, is_bad):
    totals = replace(QUIET, oldest_dead_at={"hooks": NOW - age})
    assert judge(Condition.DEAD_LETTER_AGE, totals=totals).is_bad is is_bad


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        ((100, 30.0), (100, 10.0), True),
        ((100, 20.0), (100, 10.0), None),
        ((100, 15.1), (100, 10.0), None),
        ((100, 15.0), (100, 10.0), False),
        ((99, 99.0), (100, 10.0), None),
        ((100, 100.0), (99, 9.9), None),
        ((51, 51.0), (100, 10.0), None),
        ((50, 50.0), (100, 10.0), False),
        ((100, 100.0), (50, 5.0), False),
        ((100, 20.0), (100, 9.0), True),
        ((100, 12.0), (100, 5.0), None),
        ((100, 1.2), (100, 0.5), False),
        ((100, 100.0), (100, 0.0), False),
        ((0, 0.0), (0, 0.0), False),
    ],
    ids=[
        "three times",
        "twice",
        "more than halfway back",
        "halfway back",
        "few now",
        "few before",
        "more than half as many now",
        "half as many now",
        "half as many before",
        "0.11 s more",
        "0.07 s more",
        "5 ms to 12 ms",
        "no time at all before",
        "nothing",
    ],
)
def test_latency_is_compared_with_the_same_hour_of_the_day_before(now, before, expected):
    activity = Activity(timed=now[0], seconds=now[1], timed_before=before[0], seconds_before=before[1])
    assert is_bad(judge(Condition.LATENCY, activity)) is expected


@pytest.mark.parametrize(
    ("due", "seen", "is_bad"),
    [(601.0, 601.0, True), (601.0, None, True), (601.0, 599.0, False), (599.0, 9999.0, False)],
    ids=["overdue and silent", "overdue, never claimed", "overdue, but claimed", "not overdue"],
)
def test_the_drain_is_silent_when_a_delivery_is_overdue_and_no_worker_claims(due, seen, is_bad):
    last_seen = {} if seen is None else {"hooks": NOW - seen}
    totals = replace(QUIET, oldest_due_at={"hooks": NOW - due}, last_seen_at=last_seen)
    assert judge(Condition.DRAIN_SILENT, totals=totals).is_bad is is_bad


@pytest.mark.parametrize(
    ("attempts", "retried", "expected"),
    [
        (110, 60, True),
        (110, 55, None),
        (110, 28, None),
        (110, 27, False),
        (99, 99, None),
        (51, 51, None),
        (50, 50, False),
        (0, 0, False),
    ],
    ids=[
        "above the limit",
        "at the limit",
        "more than half of the limit",
        "less than half of it",
        "too few attempts",
        "more than half of that",
        "half of that",
        "no attempts",
    ],
)
def test_retries_are_judged_over_all_endpoints(attempts, retried, expected):
    activities = {
        "a": Activity(attempts=attempts // 2, retried=retried),
        "b": Activity(attempts=attempts - attempts // 2),
    }
    found = {each.key: each for each in evaluate(QUIET, activities, THRESHOLDS, NOW, {})}
    assert is_bad(found.get(Key(Condition.RETRIES, ALL_ENDPOINTS))) is expected


@pytest.mark.parametrize(
    ("condition", "endpoint", "bad", "between"),
    [
        (
            Condition.ERROR_RATE,
            "hooks",
            Activity(attempts=100, failed=26),
            Activity(attempts=100, failed=24),
        ),
        (Condition.DEAD_LETTERS, "hooks", Activity(dead_letters=5), Activity(dead_letters=4)),
        (
            Condition.LATENCY,
            "hooks",
            Activity(timed=100, seconds=21.0, timed_before=100, seconds_before=10.0),
            Activity(timed=100, seconds=19.0, timed_before=100, seconds_before=10.0),
        ),
        (
            Condition.RETRIES,
            ALL_ENDPOINTS,
            Activity(attempts=100, retried=51),
            Activity(attempts=100, retried=49),
        ),
    ],
    ids=lambda value: value.value if isinstance(value, Condition) else "",
)
def test_a_value_that_goes_up_and_down_around_its_limit_is_announced_once(condition, endpoint, bad, between):
    key = Key(condition, endpoint)
    raised_at: dict[Key, float] = {}
    announced = []
    for activity in (bad, between, bad, between, bad):
        found = evaluate(QUIET, {"hooks": activity}, THRESHOLDS, NOW, {})
        announced += [each.what for each in crossings(found, raised_at, THRESHOLDS, NOW) if each.key == key]
        raised_at |= dict.fromkeys([key] if announced else [], NOW)
    assert announced == ["raised"]
