"""Alerts: each crossing is announced once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resonant.metrics.alerts import Condition, Crossing, Finding, Key, crossings
from resonant.settings import Thresholds

NOW = 1_700_000_000.0
HOUR = 3600.0
THRESHOLDS = Thresholds()


def finding(*, is_bad: bool, condition: Condition = Condition.ERROR_RATE) -> Finding:
    return Finding(Key(condition, "hooks"), is_bad, 0.5, 0.25, "in words")


def test_a_crossing_begins_with_the_window_in_which_it_was_first_bad():
    raised_at = NOW - HOUR
    [raised] = crossings([finding(is_bad=True)], {}, THRESHOLDS, raised_at)
    [recovered] = crossings([finding(is_bad=False)], {raised.key: raised_at}, THRESHOLDS, NOW)

    assert (raised.what, raised.at, raised.since) == ("raised", raised_at, raised_at - THRESHOLDS.window)
    assert (recovered.what, recovered.at, recovered.since) == ("recovered", NOW, raised.since)


def test_a_crossing_is_the_same_after_a_round_trip_through_json():
    [raised] = crossings([finding(is_bad=True)], {}, THRESHOLDS, NOW + 0.1)
    assert Crossing.from_json(raised.to_json()) == raised
    assert Crossing.from_json(raised.to_json()).to_json() == raised.to_json()


# The judgements of two conditions, run by run; None is no judgement.
RUNS = st.lists(
    st.fixed_dictionaries({each: st.sampled_from([True, False, None]) for each in list(Condition)[:2]})
)


@given(RUNS)
def test_each_crossing_is_announced_once_and_raised_and_recovered_alternate(runs):
    raised_at: dict[Key, float] = {}
    announced: dict[Condition, list[str]] = {each: [] for each in Condition}
    for number, run in enumerate(runs):
        found = [finding(is_bad=is_bad, condition=each) for each, is_bad in run.items() if is_bad is not None]
        for crossing in crossings(found, raised_at, THRESHOLDS, float(number)):
            announced[crossing.condition].append(crossing.what)
            if crossing.what == "raised":
                raised_at[crossing.key] = crossing.at
            else:
                del raised_at[crossing.key]

    for condition, story in announced.items():
        said = [run[condition] for run in runs if run.get(condition) is not None]
        changes = sum(before != after for before, after in zip([False, *said], said, strict=False))
        assert len(story) == changes
        assert story == ["raised", "recovered"] * (changes // 2) + ["raised"] * (changes % 2)
