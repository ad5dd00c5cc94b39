"""When a failed delivery is tried again, where it waits until then, and when it is given up."""

import math
import random
from dataclasses import FrozenInstanceError, replace
from statistics import mean

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from resonant.delivery.retry import GiveUp, Park, Retry, RetryPolicy, backoff, decide, draw_delay
from resonant.delivery.verdict import Verdict

NOW = 1_769_860_800.0
DAY = 86_400.0
JITTERS = ("proportional", "full", "equal", "decorrelated", "none")
DRAWN = JITTERS[:-1]

TRANSIENT = Verdict("transient", "http_503")
UNKNOWN = Verdict("unknown", "unknown")
PERMANENT = Verdict("permanent", "http_400")
STEADY = RetryPolicy(jitter="none")

unhurried = settings(deadline=None)


def told(seconds, verdict=TRANSIENT):
    return replace(verdict, retry_after=seconds)


def decide_now(verdict=TRANSIENT, attempt=1, policy=STEADY, rng=None, *, age=0.0, **options):
    """Decide on a failure at NOW in a round that is this many seconds old."""
    rng = rng or random.Random(7)
    return decide(verdict, attempt, policy, rng, NOW, round_started_at=NOW - age, **options)


class CountingRandom(random.Random):
    draws = 0

    def random(self):
        self.draws += 1
        return super().random()


# --- the policy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("max_attempts", 1001),
        ("unknown_max_attempts", 0),
        ("unknown_max_attempts", 1001),
        *(
            (name, value)
            for name in ("base", "cap", "max_age", "park_after")
            for value in (-0.1, math.inf, math.nan)
        ),
        ("factor", 0.99),
        ("factor", -3.0),
        ("factor", math.inf),
        ("factor", math.nan),
        ("spread", -0.1),
        ("spread", 1.0),
        ("spread", math.nan),
        ("jitter", "some"),
        ("jitter", ""),
        ("jitter", None),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} "):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    "edge",
    [
        {"max_attempts": 1, "unknown_max_attempts": 1},
        {"max_attempts": 1000, "unknown_max_attempts": 1000},
        {"base": 0, "cap": 0, "max_age": 0, "park_after": 0},
        {"factor": 1, "spread": 0},
        *({"jitter": jitter} for jitter in JITTERS),
    ],
)
def test_the_edges_of_the_ranges_are_allowed(edge):
    RetryPolicy(**edge)


def test_a_policy_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        STEADY.base = 2.0


def test_another_budget_of_attempts_changes_nothing_else():
    assert STEADY.with_max_attempts(4) == replace(STEADY, max_attempts=4)
    assert STEADY.with_max_attempts(None) is STEADY
    with pytest.raises(ValueError, match="max_attempts"):
        STEADY.with_max_attempts(0)


# --- the curve ----------------------------------------------------------------------------------------------------


def test_the_default_policy_waits_in_powers_of_three_up_to_an_hour():
    policy = RetryPolicy()
    waits = [backoff(policy, attempt) for attempt in range(1, policy.max_attempts)]
    assert waits == [1, 3, 9, 27, 81, 243, 729, 2187, 3600]


def test_the_first_version_waited_1_2_4_seconds_give_or_take_a_fifth_and_parked_nothing():
    policy = RetryPolicy.classic()
    assert [backoff(policy, attempt) for attempt in range(1, policy.max_attempts)] == [1, 2, 4]
    assert (policy.jitter, policy.spread) == ("proportional", 0.2)
    assert isinstance(decide_now(attempt=3, policy=policy), Retry)
    assert isinstance(decide_now(told(50_000), attempt=3, policy=policy), Retry)
    assert decide_now(attempt=4, policy=policy) == GiveUp("exhausted")


def test_by_default_about_forty_seconds_are_waited_in_process_and_two_hours_in_the_store():
    decisions = [decide_now(attempt=attempt) for attempt in range(1, 11)]
    waited = [decision.delay for decision in decisions if isinstance(decision, Retry)]
    parked = [decision.delay for decision in decisions if isinstance(decision, Park)]
    assert decisions[9:] == [GiveUp("exhausted")]
    assert (sum(waited), len(waited)) == (40, 4)
    assert (sum(parked), len(parked)) == (6840, 5)


policies = st.builds(
    RetryPolicy,
    base=st.just(0) | st.floats(1e-3, 1e4),
    factor=st.integers(1, 5) | st.floats(1, 10),
    cap=st.just(0) | st.floats(1e-3, 1e5),
    jitter=st.sampled_from(JITTERS),
    spread=st.floats(0, 0.99),
    max_age=st.floats(0, 2e5),
    park_after=st.floats(0, 2e5),
)


@unhurried
@given(policies, st.integers(1, 12_000))
def test_the_backoff_never_falls_and_never_exceeds_the_cap(policy, attempt):
    assert 0 <= backoff(policy, attempt) <= backoff(policy, attempt + 1) <= policy.cap


@unhurried
@given(policies)
def test_the_first_backoff_is_the_base_unless_capped(policy):
    assert backoff(policy, 1) == min(policy.base, policy.cap)


@pytest.mark.parametrize("factor", [2, 3.0, 1e308])
@pytest.mark.parametrize("base", [1, 0.5])
def test_a_curve_beyond_all_numbers_is_the_cap(base, factor):
    assert backoff(RetryPolicy(base=base, factor=factor), 10_000) == 3600


@pytest.mark.parametrize("factor", [2, 3.0])
def test_a_base_of_zero_never_waits_however_many_attempts(factor):
    policy = RetryPolicy(base=0.0, factor=factor)
    assert [backoff(policy, attempt) for attempt in (1, 2, 1000, 10_000)] == [0, 0, 0, 0]


# --- the jitter ---------------------------------------------------------------------------------------------------


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
def test_delays_use_the_whole_of_their_range_evenly(jitter, attempt):
    policy, rng = RetryPolicy(jitter=jitter), random.Random(7)
    last_delay = None if attempt == 1 else backoff(policy, attempt - 1)
    lowest, highest = bounds(policy, attempt, last_delay)
    delays = [draw_delay(policy, attempt, rng, last_delay=last_delay) for _ in range(2000)]
    tenth = (highest - lowest) / 10
    assert lowest <= min(delays) <= lowest + tenth
    assert highest - tenth <= max(delays) <= highest
    assert mean(delays) == pytest.approx((lowest + highest) / 2, rel=0.05)


@pytest.mark.parametrize("jitter", JITTERS)
def test_the_ten_thousandth_delay_is_drawn_around_the_cap(jitter):
    policy = RetryPolicy(jitter=jitter)
    lowest, highest = bounds(policy, 10_000, 1e300)
    assert lowest <= draw_delay(policy, 10_000, random.Random(7), last_delay=1e300) <= highest
    assert highest <= 3600 * 1.2


@pytest.mark.parametrize("jitter", DRAWN)
@pytest.mark.parametrize("attempt", [1, 3, 9])
def test_deliveries_that_failed_together_do_not_come_back_together(jitter, attempt):
    policy, rng = RetryPolicy(jitter=jitter), random.Random(7)
    delays = [decide_now(attempt=attempt, policy=policy, rng=rng, last_delay=1.0).delay for _ in range(1000)]
    assert len(set(delays)) == 1000


@pytest.mark.parametrize("jitter", DRAWN)
def test_a_delivery_has_no_schedule_that_another_one_shares(jitter):
    policy, rng = RetryPolicy(jitter=jitter), random.Random(7)
    one, other = (
        [decide_now(attempt=attempt, policy=policy, rng=rng).delay for attempt in range(1, 10)]
        for _ in range(2)
    )
    assert all(mine != theirs for mine, theirs in zip(one, other, strict=True))


def test_no_jitter_draws_nothing():
    rng = CountingRandom(7)
    assert {decide_now(attempt=3, rng=rng).delay for _ in range(100)} == {9}
    assert rng.draws == 0


def test_decorrelated_jitter_grows_from_the_delay_before_and_not_from_the_attempt():
    policy = RetryPolicy(jitter="decorrelated")
    delays = [draw_delay(policy, 1, random.Random(seed), last_delay=100.0) for seed in range(200)]
    assert max(delays) > 250
    assert delays == [draw_delay(policy, 9, random.Random(seed), last_delay=100.0) for seed in range(200)]


@pytest.mark.parametrize("last_delay", [0.0, 0.1])
def test_decorrelated_jitter_never_falls_below_the_base(last_delay):
    policy = RetryPolicy(jitter="decorrelated", base=2.0)
    assert draw_delay(policy, 2, random.Random(7), last_delay=last_delay) == 2.0


# --- Retry-After --------------------------------------------------------------------------------------------------


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
    assert decide_now(told(3601), age=DAY - 3600) == GiveUp("expired")
    assert decide_now(told(10 * DAY)) == GiveUp("expired")
    assert decide_now(told(math.inf)) == GiveUp("expired")


@pytest.mark.parametrize("seconds", [3100, 3500, 3599.9])
def test_the_dice_never_expire_a_retry_after_that_falls_within_the_round(seconds):
    rng = random.Random(7)
    decisions = [decide_now(told(seconds), rng=rng, age=DAY - 3600) for _ in range(500)]
    assert all(isinstance(decision, Park) and seconds <= decision.delay <= 3600 for decision in decisions)
    assert len({decision.delay for decision in decisions}) == 500


# --- the decision -------------------------------------------------------------------------------------------------


@unhurried
@given(policies, st.integers(1, 1000), st.none() | st.floats(0, 1e6), st.booleans(), st.floats(0, 1e6))
def test_what_is_permanent_is_never_tried_again(policy, attempt, retry_after, may_wait, age):
    verdict = told(retry_after, PERMANENT)
    assert decide_now(verdict, attempt, policy, age=age, may_wait=may_wait) == GiveUp("permanent")


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
    assert decide_now(attempt=3, age=DAY - 9) == Retry(delay=9, next_attempt_at=NOW + 9)
    assert decide_now(attempt=3, age=DAY - 8.999) == GiveUp("expired")
    assert decide_now(attempt=3, age=2 * DAY) == GiveUp("expired")


def test_of_several_reasons_the_first_in_order_is_given():
    assert decide_now(PERMANENT, attempt=10, age=2 * DAY) == GiveUp("permanent")
    assert decide_now(TRANSIENT, attempt=10, age=2 * DAY) == GiveUp("exhausted")
    assert decide_now(TRANSIENT, attempt=9, age=2 * DAY) == GiveUp("expired")


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
    assert decide_now(verdict, attempt, policy, may_wait=False) == Park(waits.delay, waits.next_attempt_at)


def test_without_room_in_the_process_nothing_is_given_up_that_would_not_be_otherwise():
    assert decide_now(attempt=10, may_wait=False) == GiveUp("exhausted")
    assert decide_now(attempt=3, age=DAY, may_wait=False) == GiveUp("expired")


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
    may_wait=st.booleans(),
)
def test_what_is_transient_is_tried_again_exactly_where_its_delay_ends_within_the_round(
    *, attempt, policy, seed, age, retry_after, may_wait
):
    room = policy.max_age - age
    soonest = max(draw_delay(policy, attempt, random.Random(seed)), retry_after or 0)
    assume(abs(soonest - room) > 1e-5)  # NOW has no finer digits
    decision = decide_now(told(retry_after), attempt, policy, random.Random(seed), age=age, may_wait=may_wait)
    if soonest > room:
        assert decision == GiveUp("expired")
    else:
        assert soonest <= decision.delay <= room + 1e-5
        assert decision.next_attempt_at == NOW + decision.delay
        assert may_wait or isinstance(decision, Park)
