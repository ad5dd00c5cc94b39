"""What is decided after a failure."""

import math
import random
from dataclasses import replace
from statistics import mean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resonant.delivery.retry import GiveUp, Park, Retry, RetryPolicy, draw_delay
from resonant.delivery.verdict import Verdict
from support.retries import (
    JITTERS,
    NOW,
    STEADY,
    TRANSIENT,
    CountingRandom,
    decide_now,
    policies,
    told,
    unhurried,
)

ROUND = STEADY.max_age
LAST = STEADY.max_attempts
UNKNOWN = Verdict("unknown", "unknown")
PERMANENT = Verdict("permanent", "http_400")


@unhurried
@given(policies, st.integers(1, 9), st.floats(0, 1e6), st.none() | st.floats(0, 1e5), st.integers())
def test_retry_after_is_never_undercut_and_the_delay_never_leaves_its_spread(
    policy, attempt, seconds, last_delay, seed
):
    patient = replace(policy, max_age=1e9)
    decision = decide_now(told(seconds), attempt, patient, random.Random(seed), last_delay=last_delay)
    floor = max(seconds, draw_delay(patient, attempt, random.Random(seed), last_delay=last_delay))
    assert floor <= decision.delay <= floor * (1 + policy.spread) * (1 + 1e-12)


@pytest.mark.parametrize("jitter", JITTERS)
def test_those_who_were_told_the_same_time_come_back_spread_above_it(jitter):
    policy, rng = RetryPolicy(jitter=jitter), random.Random(7)
    delays = [decide_now(told(60), policy=policy, rng=rng).delay for _ in range(1000)]
    assert len(set(delays)) == 1000
    assert 60 <= min(delays) < 61
    assert 71 < max(delays) <= 72
    assert mean(delays) == pytest.approx(66, rel=0.02)


@pytest.mark.parametrize("jitter", JITTERS)
def test_the_cap_does_not_lower_retry_after(jitter):
    policy = RetryPolicy(cap=10, jitter=jitter)
    assert decide_now(told(7200), attempt=9, policy=policy).delay >= 7200


def test_a_retry_after_shorter_than_the_backoff_does_not_shorten_it():
    assert 27 <= decide_now(told(2), attempt=4).delay <= 27 * 1.2
    assert 27 <= decide_now(told(0), attempt=4).delay <= 27 * 1.2


def test_a_retry_after_longer_than_a_process_should_sleep_is_parked():
    assert isinstance(decide_now(told(30)), Retry)
    assert isinstance(decide_now(told(30.001)), Park)


def test_a_retry_after_beyond_the_round_is_expired_now():
    assert decide_now(told(3601), age=ROUND - 3600) == GiveUp("expired")
    assert decide_now(told(4 * ROUND)) == GiveUp("expired")
    assert decide_now(told(math.inf)) == GiveUp("expired")


@pytest.mark.parametrize("seconds", [3100, 3500, 3599.9])
def test_the_dice_never_expire_a_retry_after_that_falls_within_the_round(seconds):
    rng = random.Random(7)
    decisions = [decide_now(told(seconds), rng=rng, age=ROUND - 3600) for _ in range(500)]
    assert all(isinstance(decision, Park) and seconds <= decision.delay <= 3600 for decision in decisions)
    assert len({decision.delay for decision in decisions}) == 500


@unhurried
@given(
    policies,
    st.integers(1, 1000),
    st.none() | st.floats(0, 1e6),
    st.sampled_from([0.0, math.inf]),
    st.floats(0, 1e6),
)
def test_permanent_failures_are_never_retried(policy, attempt, retry_after, longest_wait, age):
    verdict = told(retry_after, PERMANENT)
    assert decide_now(verdict, attempt, policy, age=age, longest_wait=longest_wait) == GiveUp("permanent")


@pytest.mark.parametrize("max_attempts", [1, 2, 10, 1000])
def test_the_budget_counts_the_first_attempt(max_attempts):
    policy = RetryPolicy(max_attempts=max_attempts, base=0.0)
    for attempt in range(1, max_attempts):
        assert isinstance(decide_now(attempt=attempt, policy=policy), Retry)
    assert decide_now(attempt=max_attempts, policy=policy) == GiveUp("exhausted")
    assert decide_now(attempt=max_attempts + 1, policy=policy) == GiveUp("exhausted")


def test_the_unknown_is_tried_fewer_times():
    assert isinstance(decide_now(UNKNOWN, attempt=2), Retry)
    assert decide_now(UNKNOWN, attempt=3) == GiveUp("exhausted")
    assert decide_now(told(5, UNKNOWN), attempt=3) == GiveUp("exhausted")
    assert isinstance(decide_now(TRANSIENT, attempt=3), Retry)


def test_the_unknown_is_never_tried_more_often_than_the_transient():
    policy = RetryPolicy(max_attempts=2, unknown_max_attempts=5)
    assert decide_now(UNKNOWN, attempt=2, policy=policy) == GiveUp("exhausted")


def test_a_retry_beyond_the_round_is_expired_and_one_at_its_very_end_is_not():
    assert decide_now(attempt=3, age=ROUND - 9) == Retry(delay=9, next_attempt_at=NOW + 9)
    assert decide_now(attempt=3, age=ROUND - 8.999) == GiveUp("expired")
    assert decide_now(attempt=3, age=2 * ROUND) == GiveUp("expired")


def test_of_several_reasons_the_first_in_order_is_given():
    assert decide_now(PERMANENT, attempt=LAST, age=2 * ROUND) == GiveUp("permanent")
    assert decide_now(TRANSIENT, attempt=LAST, age=2 * ROUND) == GiveUp("exhausted")
    assert decide_now(TRANSIENT, attempt=LAST - 1, age=2 * ROUND) == GiveUp("expired")


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("jitter", ["proportional", "full", "equal", "none"])
def test_the_dice_do_not_decide_where_a_backoff_is_waited_for(jitter, seed):
    policy, rng = RetryPolicy(jitter=jitter, spread=0.9), random.Random(seed)
    kinds = [type(decide_now(attempt=attempt, policy=policy, rng=rng)) for attempt in range(1, 10)]
    assert kinds == [Retry] * 4 + [Park] * 5


def test_decorrelated_jitter_never_sleeps_longer_in_process_than_allowed():
    policy = RetryPolicy(jitter="decorrelated", factor=1.0)
    decisions = [
        decide_now(attempt=2, policy=policy, rng=random.Random(seed), last_delay=25.0) for seed in range(200)
    ]
    assert {type(decision) for decision in decisions} == {Retry, Park}
    assert all((decision.delay > 30) == isinstance(decision, Park) for decision in decisions)


@pytest.mark.parametrize("attempt", [1, 2, 5, 9])
@pytest.mark.parametrize("verdict", [TRANSIENT, told(12)])
def test_without_room_in_the_process_the_same_delay_is_parked(verdict, attempt):
    policy = RetryPolicy()
    waits = decide_now(verdict, attempt, policy)
    assert decide_now(verdict, attempt, policy, longest_wait=0.0) == Park(waits.delay, waits.next_attempt_at)


def test_without_room_in_the_process_nothing_is_given_up_that_would_not_be_otherwise():
    assert decide_now(attempt=LAST, longest_wait=0.0) == GiveUp("exhausted")
    assert decide_now(attempt=3, age=ROUND, longest_wait=0.0) == GiveUp("expired")


verdicts = st.builds(
    Verdict,
    category=st.sampled_from(["transient", "unknown", "permanent"]),
    code=st.just("any"),
    retry_after=st.none() | st.floats(0, 1e6),
)
ages = st.floats(0, 2e5)


@unhurried
@given(
    verdict=verdicts,
    attempt=st.integers(1, 12),
    policy=policies,
    seed=st.integers(),
    age=ages,
    last_delay=st.none() | st.floats(0, 1e5),
)
def test_a_decision_is_a_function_of_what_it_is_given_and_draws_twice_at_most(seed, **given):
    rng = CountingRandom(seed)
    assert decide_now(**given, rng=rng) == decide_now(**given, rng=random.Random(seed))
    assert rng.draws <= 2


@unhurried
@given(
    attempt=st.integers(1, 9),
    policy=policies,
    seed=st.integers(),
    age=ages,
    retry_after=st.none() | st.floats(0, 1e5),
    longest_wait=st.sampled_from([0.0, math.inf]),
)
def test_what_is_transient_is_tried_again_exactly_where_its_delay_ends_within_the_round(
    *, attempt, policy, seed, age, retry_after, longest_wait
):
    room = policy.max_age - age
    soonest = max(draw_delay(policy, attempt, random.Random(seed)), retry_after or 0)
    assume(abs(soonest - room) > 1e-5)  # NOW has no finer digits
    decision = decide_now(
        told(retry_after), attempt, policy, random.Random(seed), age=age, longest_wait=longest_wait
    )
    if soonest > room:
        assert decision == GiveUp("expired")
    else:
        assert soonest <= decision.delay <= room + 1e-5
        assert decision.next_attempt_at == NOW + decision.delay
        assert longest_wait or isinstance(decision, Park)
