"""Policies, and the delays that are drawn from them."""

import math
import random
from dataclasses import replace
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.delivery.retry import GateView, Park, Retry, RetryPolicy, backoff, draw_delay
from support.retries import JITTERS, CountingRandom, curves, decide_now, policies, unhurried

INVALID = {
    "max_attempts": (0, -1, 1001),
    "unknown_max_attempts": (0, 1001),
    **dict.fromkeys(("base", "cap", "max_age", "park_after"), (-0.1, math.inf, math.nan)),
    "factor": (0.99, -3.0, math.inf, math.nan),
    "spread": (-0.1, 1.0, math.nan),
    "jitter": ("some", "", None),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in INVALID.items() for value in values]
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} "):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"delays": ()}, "delays must be 1 to 999 delays, not 0"),
        ({"delays": (1,) * 1000}, "delays must be 1 to 999 delays, not 1000"),
        *(
            ({"delays": (5, value)}, rf"delays must be finite and not negative, not {value} \(item 2\)")
            for value in (-1, math.inf, math.nan)
        ),
        *(
            ({"delays": (5,), name: 7}, f"delays cannot be combined with {name}")
            for name in ("base", "factor", "cap")
        ),
        ({"delays": (5,), "jitter": "decorrelated"}, "delays cannot be combined with decorrelated jitter"),
        (
            {"delays": (50, 50), "max_age": 119},
            "max_age must be at least 120 seconds for these delays .*, not 119",
        ),
        ({"delays": (50, 51), "max_age": 100, "jitter": "full"}, "max_age must be at least 101 seconds"),
    ],
)
def test_a_list_of_delays_that_cannot_be_followed_is_refused(fields, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        RetryPolicy(**fields)


@pytest.mark.parametrize(("given", "attempts"), [({}, 3), ({"max_attempts": 2}, 2), ({"max_attempts": 9}, 3)])
def test_a_list_of_delays_has_one_attempt_more_than_delays_unless_fewer_are_given(given, attempts):
    policy = RetryPolicy(delays=[5, 60], **given)
    assert policy.max_attempts == attempts
    assert replace(policy, max_attempts=9).max_attempts == 3
    assert hash(policy) == hash(replace(policy)), "advise keeps predictions by policy"


def test_the_default_policy_waits_in_powers_of_three_up_to_an_hour():
    waits = [backoff(RetryPolicy(), attempt) for attempt in range(1, 13)]
    assert waits == [1, 3, 9, 27, 81, 243, 729, 2187, 3600, 3600, 3600, 3600]


@pytest.mark.parametrize("spread", [0.2, 0.0, -0.2])
def test_the_default_policy_ends_a_round_by_its_age_and_not_by_its_attempts(spread):
    """Every delay is drawn as far as possible from the curve."""
    policy, age, attempt = RetryPolicy(), 0.0, 1
    while (wait := backoff(policy, attempt) * (1 - spread)) <= policy.max_age - age:
        age, attempt = age + wait, attempt + 1
    assert policy.max_age - age < 3600 * 1.2
    assert 60 < attempt < policy.max_attempts
    assert policy.max_age == 3 * 24 * 3600


def test_the_classic_policy_waits_1_2_and_4_seconds_with_a_fifth_of_jitter():
    policy = RetryPolicy.classic()
    assert [backoff(policy, attempt) for attempt in range(1, policy.max_attempts)] == [1, 2, 4]
    assert (policy.jitter, policy.spread) == ("proportional", 0.2)


def test_by_default_about_forty_seconds_are_waited_in_process_and_the_rest_in_the_store():
    decisions = [decide_now(attempt=attempt) for attempt in range(1, 80)]
    waited = [decision.delay for decision in decisions if isinstance(decision, Retry)]
    assert (sum(waited), len(waited)) == (40, 4)
    assert all(isinstance(decision, Park) for decision in decisions[4:])


@unhurried
@given(curves, st.integers(1, 12_000))
def test_the_backoff_never_falls_and_never_exceeds_the_cap(policy, attempt):
    assert backoff(policy, 1) == min(policy.base, policy.cap)
    assert 0 <= backoff(policy, attempt) <= backoff(policy, attempt + 1) <= policy.cap


@pytest.mark.parametrize("factor", [2, 3.0])
def test_a_base_of_zero_never_waits_however_many_attempts(factor):
    policy = RetryPolicy(base=0.0, factor=factor)
    assert [backoff(policy, attempt) for attempt in (1, 2, 1000, 10_000)] == [0, 0, 0, 0]


def bounds(policy, attempt, last_delay):
    wait = backoff(policy, attempt)
    match policy.jitter:
        case "proportional":
            return wait * (1 - policy.spread), wait * (1 + policy.spread)
        case "full":
            return 0, wait
        case "equal":
            return wait / 2, wait
        case "decorrelated":
            longest = 3 * (policy.base if last_delay is None else last_delay)
            return min(policy.base, policy.cap), min(policy.cap, max(policy.base, longest))
        case "none":
            return wait, wait


@unhurried
@given(policies, st.integers(1, 10_000), st.none() | st.floats(0, 1e6), st.randoms(use_true_random=False))
def test_a_delay_stays_within_the_bounds_of_its_jitter(policy, attempt, last_delay, rng):
    lowest, highest = bounds(policy, attempt, last_delay)
    delay = draw_delay(policy, attempt, rng, last_delay=last_delay)
    assert lowest * (1 - 1e-12) <= delay <= highest * (1 + 1e-12)


@pytest.mark.parametrize("jitter", JITTERS)
@pytest.mark.parametrize("attempt", [1, 4, 7])
def test_delays_use_their_whole_range_evenly(jitter, attempt):
    policy, rng = RetryPolicy(jitter=jitter), random.Random(7)
    last_delay = None if attempt == 1 else backoff(policy, attempt - 1)
    lowest, highest = bounds(policy, attempt, last_delay)
    delays = [draw_delay(policy, attempt, rng, last_delay=last_delay) for _ in range(2000)]
    tenth = (highest - lowest) / 10
    assert lowest <= min(delays) <= lowest + tenth
    assert highest - tenth <= max(delays) <= highest
    assert mean(delays) == pytest.approx((lowest + highest) / 2, rel=0.05)


@pytest.mark.parametrize("gate", [GateView(), GateView(governs=True)], ids=["normal", "governs"])
@pytest.mark.parametrize("jitter", JITTERS[:-1])
@pytest.mark.parametrize("attempt", [1, 3, 9])
def test_deliveries_that_failed_together_are_not_retried_together(jitter, attempt, gate):
    options = {"policy": RetryPolicy(jitter=jitter), "rng": random.Random(7), "last_delay": 1.0, "gate": gate}
    assert len({decide_now(attempt=attempt, **options).delay for _ in range(100)}) == 100


def test_without_jitter_no_random_number_is_drawn():
    rng = CountingRandom(7)
    assert {decide_now(attempt=3, rng=rng).delay for _ in range(100)} == {9}
    assert rng.draws == 0
