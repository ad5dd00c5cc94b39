"""Alerts: what is bad, what says nothing, and that each crossing is told once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.alerts import (
    ALL_ENDPOINTS,
    Activity,
    Condition,
    Crossing,
    Finding,
    Key,
    Thresholds,
    crossings,
    evaluate,
)
from resonant.store.measuring import Totals

NOW = 1_700_000_000.0
HOUR = 3600.0
THRESHOLDS = Thresholds()
QUIET = Totals(NOW, ("hooks",), (), {}, {}, {}, {}, {})


def judge(condition, activity=None, totals=QUIET, endpoint="hooks", thresholds=THRESHOLDS):
    """Return the finding of one condition; None where there is none."""
    found = evaluate(totals, {"hooks": activity or Activity()}, thresholds, NOW)
    return {finding.key: finding for finding in found}.get(Key(condition, endpoint))


def test_a_quiet_store_has_nothing_bad():
    assert not [finding for finding in evaluate(QUIET, {}, THRESHOLDS, NOW) if finding.is_bad]


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
        "nobody tried",
    ],
)
def test_an_error_rate_is_bad_above_the_limit_and_good_at_half_of_it(attempts, failed, expected):
    finding = judge(Condition.ERROR_RATE, Activity(attempts=attempts, failed=failed))
    assert (None if finding is None else finding.is_bad) is expected


def test_an_error_rate_says_itself_in_words():
    finding = judge(Condition.ERROR_RATE, Activity(attempts=40, failed=20))
    assert finding.text == "hooks: 50% of 40 attempts in 15 minutes failed, the limit is 25%"
    assert (finding.value, finding.threshold) == (0.5, 0.25)


@pytest.mark.parametrize(("more", "is_bad"), [(5, True), (4, False), (-3, False)])
def test_dead_letters_are_counted_by_the_hour_less_replays(more, is_bad):
    finding = judge(Condition.DEAD_LETTERS, Activity(dead_letters=more))
    assert (finding.is_bad, finding.value) == (is_bad, max(0, more))


@pytest.mark.parametrize(("age", "is_bad"), [(73 * HOUR, True), (72 * HOUR, False)])
def test_a_dead_letter_may_wait_three_days(age, is_bad):
    totals = replace(QUIET, oldest_dead_at={"hooks": NOW - age})
    assert judge(Condition.DEAD_LETTER_AGE, totals=totals).is_bad is is_bad


@pytest.mark.parametrize(
    ("now", "before", "is_bad"),
    [
        ((100, 30.0), (100, 10.0), True),
        ((100, 20.0), (100, 10.0), False),
        ((99, 99.0), (100, 10.0), False),
        ((100, 100.0), (99, 9.9), False),
        ((100, 1.2), (100, 0.5), False),
        ((100, 100.0), (100, 0.0), False),
    ],
    ids=["three times", "twice", "few now", "few before", "5 ms to 12 ms", "no time at all before"],
)
def test_latency_is_compared_with_the_same_hour_of_the_day_before(now, before, is_bad):
    activity = Activity(timed=now[0], seconds=now[1], timed_before=before[0], seconds_before=before[1])
    assert judge(Condition.LATENCY, activity).is_bad is is_bad


@pytest.mark.parametrize(
    ("due", "seen", "is_bad"),
    [(601.0, 601.0, True), (601.0, None, True), (601.0, 599.0, False), (599.0, 9999.0, False)],
    ids=["overdue and silent", "overdue, never tried", "overdue, but at work", "not overdue"],
)
def test_the_drain_is_silent_when_something_is_overdue_and_nobody_tries(due, seen, is_bad):
    last_seen = {} if seen is None else {"hooks": NOW - seen}
    totals = replace(QUIET, oldest_due_at={"hooks": NOW - due}, last_seen_at=last_seen)
    assert judge(Condition.DRAIN_SILENT, totals=totals).is_bad is is_bad


def test_retries_are_judged_over_all_endpoints():
    busy = Activity(attempts=60, retried=60)
    calm = Activity(attempts=50, retried=0)
    for activities, is_bad in [({"a": busy, "b": calm}, True), ({"a": busy}, False), ({"b": calm}, False)]:
        findings = evaluate(QUIET, activities, THRESHOLDS, NOW)
        [finding] = [each for each in findings if each.key == (Condition.RETRIES, ALL_ENDPOINTS)]
        assert finding.is_bad is is_bad


def finding(*, is_bad: bool, condition: Condition = Condition.ERROR_RATE) -> Finding:
    return Finding(Key(condition, "hooks"), is_bad, 0.5, 0.25, "in words")


def test_a_crossing_says_since_when_it_may_have_been_bad():
    raised_at = NOW - HOUR
    [raised] = crossings([finding(is_bad=True)], {}, THRESHOLDS, raised_at)
    [recovered] = crossings([finding(is_bad=False)], {raised.key: raised_at}, THRESHOLDS, NOW)

    assert (raised.what, raised.at, raised.since) == ("raised", raised_at, raised_at - THRESHOLDS.window)
    assert (recovered.what, recovered.at, recovered.since) == ("recovered", NOW, raised.since)


def test_a_crossing_is_the_same_after_it_was_written_down():
    [raised] = crossings([finding(is_bad=True)], {}, THRESHOLDS, NOW + 0.1)
    assert Crossing.from_json(raised.to_json()) == raised
    assert Crossing.from_json(raised.to_json()).to_json() == raised.to_json()


# What was found of two conditions, run by run; None is too little to say.
RUNS = st.lists(
    st.fixed_dictionaries({each: st.sampled_from([True, False, None]) for each in list(Condition)[:2]})
)


@given(RUNS)
def test_each_crossing_is_told_once_and_raised_and_recovered_alternate(runs):
    raised_at: dict[Key, float] = {}
    told: dict[Condition, list[str]] = {each: [] for each in Condition}
    for number, run in enumerate(runs):
        found = [finding(is_bad=is_bad, condition=each) for each, is_bad in run.items() if is_bad is not None]
        for crossing in crossings(found, raised_at, THRESHOLDS, float(number)):
            told[crossing.condition].append(crossing.what)
            if crossing.what == "raised":
                raised_at[crossing.key] = crossing.at
            else:
                del raised_at[crossing.key]

    for condition, story in told.items():
        said = [run[condition] for run in runs if run.get(condition) is not None]
        changes = sum(before != after for before, after in zip([False, *said], said, strict=False))
        assert len(story) == changes
        assert story == ["raised", "recovered"] * (changes // 2) + ["raised"] * (changes % 2)


def test_where_nothing_is_counted_only_what_the_rows_show_is_judged():
    totals = replace(QUIET, oldest_due_at={"hooks": NOW - HOUR}, last_seen_at={})
    findings = evaluate(totals, None, THRESHOLDS, NOW)
    judged = {each.key.condition: each.is_bad for each in findings}
    assert judged == {Condition.DEAD_LETTER_AGE: False, Condition.DRAIN_SILENT: True}
