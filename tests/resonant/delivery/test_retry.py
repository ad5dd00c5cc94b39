"""The decision after a failure, without and with a gate that governs."""

import math
import random
from dataclasses import replace
from statistics import mean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resonant.delivery.retry import GateView, GiveUp, Park, Retry, RetryPolicy, backoff, decide, draw_delay
from resonant.delivery.verdict import Verdict
from support.retries import (
    JITTERS,
    NOW,
    STEADY,
    TRANSIENT,
    CountingRandom,
    decide_now,
    listed,
    policies,
    unhurried,
    with_retry_after,
)

ROUND = STEADY.max_age
LAST = STEADY.max_attempts
UNKNOWN = Verdict("unknown", "unknown")
PERMANENT = Verdict("permanent", "http_400")
DNS_NOT_FOUND = Verdict("unknown", "dns_not_found")
CERTIFICATE = Verdict("permanent", "tls_certificate")
INVALID = Verdict("permanent", "invalid_request", blame="local")
FOUR = replace(STEADY, max_attempts=4)
FEW = RetryPolicy(max_attempts=2, unknown_max_attempts=5)
CLASSIC = RetryPolicy.classic()
PACED = GateView(governs=True)
PILOT = GateView(governs=True, has_room=True)
PROBING = GateView(governs=True, is_down=True)
UNANSWERED = {"answered": False, "gate": PROBING}

attempts = st.integers(1, 9)
ages = st.floats(0, 2e5)
last_delays = st.none() | st.floats(0, 1e5)
waits = st.floats(1e-3, 1e5)
longest_waits = st.sampled_from([0.0, math.inf])
gates = st.sampled_from([GateView(), PACED, PILOT, PROBING])
patient_policies = policies.map(lambda policy: replace(policy, max_age=1e9))
verdicts = st.builds(
    Verdict,
    category=st.sampled_from(["transient", "unknown", "permanent"]),
    code=st.just("any"),
    retry_after=st.none() | st.floats(0, 1e6),
)


def in_a_word(decision):
    return decision.reason if isinstance(decision, GiveUp) else type(decision).__name__.lower()


# --- examples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "options", "decision"),
    [
        # A wait above 30 s is parked; one that ends after the round expires the delivery now.
        (with_retry_after(30), {}, "retry"),
        (with_retry_after(30.001), {}, "park"),
        (with_retry_after(3601), {"age": ROUND - 3600}, "expired"),
        (with_retry_after(4 * ROUND), {}, "expired"),
        (with_retry_after(math.inf), {}, "expired"),
        (TRANSIENT, {"attempt": 3, "age": ROUND - 9}, "retry"),
        (TRANSIENT, {"attempt": 3, "age": ROUND - 8.999}, "expired"),
        (TRANSIENT, {"attempt": 3, "age": 2 * ROUND}, "expired"),
        # The event's expirytime also ends the round, but cannot make it longer.
        (TRANSIENT, {"attempt": 3, "expires_at": NOW + 9}, "retry"),
        (TRANSIENT, {"attempt": 3, "expires_at": NOW + 8.999}, "expired"),
        (TRANSIENT, {"attempt": 3, "expires_at": NOW - 1}, "expired"),
        (with_retry_after(60), {"expires_at": NOW + 59}, "expired"),
        (TRANSIENT, {"attempt": 8, "gate": PACED, "expires_at": NOW + 0.5}, "expired"),
        (TRANSIENT, {"attempt": 3, "age": ROUND - 8.999, "expires_at": NOW + ROUND}, "expired"),
        (PERMANENT, {"expires_at": NOW - 1}, "permanent"),
        (with_retry_after(5, PERMANENT), {"longest_wait": 0.0}, "permanent"),
        (TRANSIENT, {"attempt": LAST, "expires_at": NOW - 1}, "exhausted"),
        # Unknown failures are tried less often, and never more often than transient ones.
        (UNKNOWN, {"attempt": 2}, "retry"),
        (UNKNOWN, {"attempt": 3}, "exhausted"),
        (with_retry_after(5, UNKNOWN), {"attempt": 3}, "exhausted"),
        (TRANSIENT, {"attempt": 3}, "retry"),
        (UNKNOWN, {"attempt": 2, "policy": FEW}, "exhausted"),
        # Of several reasons, the first in order is given.
        (PERMANENT, {"attempt": LAST, "age": 2 * ROUND}, "permanent"),
        (TRANSIENT, {"attempt": LAST, "age": 2 * ROUND}, "exhausted"),
        (TRANSIENT, {"attempt": LAST - 1, "age": 2 * ROUND}, "expired"),
        # A process without room gives up nothing that it would retry otherwise.
        (TRANSIENT, {"attempt": LAST, "longest_wait": 0.0}, "exhausted"),
        (TRANSIENT, {"attempt": 3, "age": ROUND, "longest_wait": 0.0}, "expired"),
        # The classic policy parks nothing.
        (TRANSIENT, {"attempt": 3, "policy": CLASSIC}, "retry"),
        (with_retry_after(50_000), {"attempt": 3, "policy": CLASSIC}, "retry"),
        (with_retry_after(86_401), {"attempt": 3, "policy": CLASSIC}, "expired"),
        (TRANSIENT, {"attempt": 4, "policy": CLASSIC}, "exhausted"),
        # A failure before the end of the delivery's own backoff does not exhaust the round.
        (TRANSIENT, {"attempt": 4, "policy": FOUR, "gate": PROBING}, "exhausted"),
        (TRANSIENT, {"attempt": 4, "policy": FOUR, "gate": PROBING, "backoff_until": NOW + 9}, "park"),
        (DNS_NOT_FOUND, {"attempt": 4, "policy": FOUR, "backoff_until": NOW + 9}, "park"),
        # Failures that an operator can fix are not given up while the endpoint is down and did not answer.
        (DNS_NOT_FOUND, {"attempt": 5, "answered": False}, "exhausted"),
        (DNS_NOT_FOUND, {"attempt": 5, "answered": False, "gate": PACED}, "exhausted"),
        (CERTIFICATE, {"attempt": 5, "answered": False}, "permanent"),
        (CERTIFICATE, {"attempt": 5, "answered": False, "gate": PACED}, "permanent"),
        (PERMANENT, {"gate": PROBING}, "permanent"),
        (INVALID, UNANSWERED, "permanent"),
        # Their budget and the age still end the round.
        *(
            (each, UNANSWERED | {"attempt": 4, "policy": FOUR}, "exhausted")
            for each in (TRANSIENT, DNS_NOT_FOUND, CERTIFICATE)
        ),
        *((each, UNANSWERED | {"age": ROUND}, "expired") for each in (TRANSIENT, DNS_NOT_FOUND, CERTIFICATE)),
    ],
)
def test_the_kind_of_decision(verdict, options, decision):
    assert in_a_word(decide_now(verdict, **options)) == decision


@pytest.mark.parametrize(
    ("verdict", "options", "decision"),
    [
        (TRANSIENT, {"attempt": 3, "age": ROUND - 9}, Retry(9, NOW + 9)),
        # A retry that is due soon waits in the process that paces the endpoint, for as long as its policy says.
        (TRANSIENT, {"attempt": 3, "gate": PILOT}, Retry(9, NOW + 9)),
        (
            TRANSIENT,
            {"attempt": 3, "gate": PILOT, "longest_wait": 0.0},
            Park(1.0, NOW + 1, backoff_until=NOW + 9),
        ),
        (TRANSIENT, {"attempt": 8, "gate": PILOT}, Park(1.0, NOW + 1, backoff_until=NOW + 3**7)),
        # Under a gate, a parked retry is due after the first backoff at most, and keeps its own.
        (TRANSIENT, {"attempt": 8, "gate": PACED}, Park(1.0, NOW + 1, backoff_until=NOW + 3**7)),
        (TRANSIENT, {"attempt": 1, "gate": PACED}, Park(1.0, NOW + 1, backoff_until=NOW + 1)),
        (
            TRANSIENT,
            {"attempt": 8, "gate": PACED, "age": ROUND - 100},
            Park(1.0, NOW + 1, backoff_until=NOW + 3**7),
        ),
        *(
            (each, UNANSWERED | {"attempt": 5}, Park(1.0, NOW + 1, backoff_until=NOW + 81))
            for each in (DNS_NOT_FOUND, CERTIFICATE)
        ),
        # A failure before the end of the own backoff is not charged, and does not move that end.
        *(
            (
                TRANSIENT,
                {"attempt": 8, "gate": gate, "backoff_until": NOW + left},
                Park(wait, NOW + wait, backoff_until=NOW + left, charged=False),
            )
            for gate, left, wait in ((PROBING, 500, 1.0), (PROBING, 0.25, 0.25), (GateView(), 500, 500.0))
        ),
        # The clock was set back since the backoff began: it lasts no longer than its delay.
        (
            TRANSIENT,
            {"attempt": 8, "backoff_until": NOW + 3_600, "last_delay": 500.0},
            Park(500.0, NOW + 500, backoff_until=NOW + 500, charged=False),
        ),
        (
            TRANSIENT,
            {"attempt": 8, "gate": PROBING, "backoff_until": NOW},
            Park(1.0, NOW + 1, backoff_until=NOW + 3**7),
        ),
    ],
)
def test_the_delay_and_the_charge_of_a_decision(verdict, options, decision):
    assert decide_now(verdict, **options) == decision


@pytest.mark.parametrize("max_attempts", [1, 2, 10, 1000])
def test_the_budget_counts_the_first_attempt(max_attempts):
    policy = RetryPolicy(max_attempts=max_attempts, base=0.0)
    decided = [in_a_word(decide_now(attempt=n, policy=policy)) for n in range(1, max_attempts + 2)]
    assert decided == ["retry"] * (max_attempts - 1) + ["exhausted"] * 2


@unhurried
@given(listed, st.randoms(use_true_random=False))
def test_a_list_of_delays_is_followed_to_its_end_and_then_exhausted(policy, rng):
    age = 0.0
    for attempt, delay in enumerate(policy.delays, 1):
        decision = decide_now(attempt=attempt, policy=policy, rng=rng, age=age)
        assert decision.delay <= delay * (1 + policy.spread) * (1 + 1e-12)
        assert backoff(policy, attempt) == delay
        age += decision.delay
    assert decide_now(attempt=len(policy.delays) + 1, policy=policy, rng=rng, age=age) == GiveUp("exhausted")


def test_the_schedule_of_standard_webhooks_takes_ten_attempts_in_76_hours():
    policy, minute, hour = RetryPolicy.standard_webhooks(), 60, 3600
    waits = [backoff(policy, attempt) for attempt in range(1, 10)]
    assert waits == [5, 5 * minute, 30 * minute, *(hours * hour for hours in (2, 5, 10, 14, 20, 24))]
    assert in_a_word(decide_now(attempt=9, policy=policy, age=1.2 * sum(waits[:8]))) == "park"
    assert decide_now(attempt=10, policy=policy) == GiveUp("exhausted")


# --- Retry-After ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jitter", JITTERS)
def test_deliveries_with_the_same_retry_after_are_spread_above_it(jitter):
    policy, rng = RetryPolicy(jitter=jitter), random.Random(7)
    delays = [decide_now(with_retry_after(60), policy=policy, rng=rng).delay for _ in range(1000)]
    assert len(set(delays)) == 1000
    assert 60 <= min(delays) < 61
    assert 71 < max(delays) <= 72
    assert mean(delays) == pytest.approx(66, rel=0.02)


# --- any decision ---------------------------------------------------------------------------------------------------


@unhurried
@given(
    verdict=verdicts,
    attempt=st.integers(1, 12),
    policy=policies,
    seed=st.integers(),
    age=ages,
    last_delay=last_delays,
    gate=gates,
    backoff_until=st.none() | waits.map(lambda wait: NOW + wait),
)
def test_a_decision_depends_only_on_its_arguments_and_draws_at_most_three_times(seed, **given):
    rng = CountingRandom(seed)
    assert decide_now(**given, rng=rng) == decide_now(**given, rng=random.Random(seed))
    assert rng.draws <= (3 if given["gate"].governs else 2)


@unhurried
@given(attempts, policies, st.integers(), ages, st.none() | st.floats(0, 1e5), longest_waits)
def test_a_transient_failure_is_retried_exactly_if_its_delay_ends_within_the_round(
    attempt, policy, seed, age, retry_after, longest_wait
):
    room = policy.max_age - age
    soonest = max(draw_delay(policy, attempt, random.Random(seed)), retry_after or 0)
    assume(abs(soonest - room) > 1e-5)  # NOW has no finer digits
    verdict = with_retry_after(retry_after)
    options = {"age": age, "longest_wait": longest_wait}
    decision = decide_now(verdict, attempt, policy, random.Random(seed), **options)
    if soonest > room:
        assert decision == GiveUp("expired")
    else:
        assert soonest <= decision.delay <= room + 1e-5
        assert decision.next_attempt_at == NOW + decision.delay
        assert longest_wait or isinstance(decision, Park)


@pytest.mark.parametrize("jitter", ["proportional", "full", "equal", "none"])
def test_jitter_does_not_decide_where_a_delivery_waits(jitter):
    policy = RetryPolicy(jitter=jitter, spread=0.9)
    for seed in range(50):
        rng = random.Random(seed)
        kinds = [type(decide_now(attempt=attempt, policy=policy, rng=rng)) for attempt in range(1, 10)]
        assert kinds == [Retry] * 4 + [Park] * 5


def test_decorrelated_jitter_never_waits_longer_in_the_process_than_allowed():
    policy = RetryPolicy(jitter="decorrelated", factor=1.0)
    decisions = [
        decide_now(attempt=2, policy=policy, rng=random.Random(seed), last_delay=25.0) for seed in range(200)
    ]
    assert {type(decision) for decision in decisions} == {Retry, Park}
    assert all((decision.delay > 30) == isinstance(decision, Park) for decision in decisions)


# --- under a gate ---------------------------------------------------------------------------------------------------


@unhurried
@given(
    patient_policies,
    attempts,
    last_delays,
    st.sampled_from([PACED, PROBING]),
    st.integers(),
    longest_waits,
    st.booleans(),
)
def test_a_gate_never_delays_a_retry_beyond_its_first_or_its_own_backoff(
    policy, attempt, last_delay, gate, seed, longest_wait, answered
):
    options = {"last_delay": last_delay, "longest_wait": longest_wait, "answered": answered}
    own = decide_now(attempt=attempt, policy=policy, rng=random.Random(seed), **options)
    governed = decide_now(attempt=attempt, policy=policy, rng=random.Random(seed), gate=gate, **options)
    first = backoff(policy, 1) * (1 + policy.spread)
    if policy.jitter == "decorrelated":
        first = min(policy.cap, 3 * policy.base)
    assert isinstance(governed, Park)
    assert governed.charged
    assert governed.delay <= min(own.delay, first * (1 + 1e-12))
    assert governed.backoff_until == own.next_attempt_at, "its own backoff is that of the policy alone"
    assert governed.own_delay == pytest.approx(own.delay, abs=1e-6)


@unhurried
@given(patient_policies, attempts, st.floats(0, 1e6), gates, st.none() | waits, st.integers())
def test_retry_after_is_a_floor_and_without_a_gate_the_delay_stays_within_its_spread(
    policy, attempt, seconds, gate, early_by, seed
):
    until = None if early_by is None else NOW + early_by
    verdict = with_retry_after(seconds)
    decision = decide_now(verdict, attempt, policy, random.Random(seed), gate=gate, backoff_until=until)
    assert decision.delay >= seconds
    assert decision.next_attempt_at == NOW + decision.delay
    if until is None and not gate.governs:
        floor = max(seconds, draw_delay(policy, attempt, random.Random(seed)))
        assert floor <= decision.delay <= floor * (1 + policy.spread) * (1 + 1e-12)
    if isinstance(decision, Park) and decision.charged and decision.backoff_until is not None:
        assert decision.backoff_until >= decision.next_attempt_at


@unhurried
@given(patient_policies, attempts, gates, waits, st.integers(), longest_waits)
def test_an_early_failure_is_never_charged_and_never_waits_longer_than_its_own_backoff(
    policy, attempt, gate, early_by, seed, longest_wait
):
    options = {"gate": gate, "backoff_until": NOW + early_by, "longest_wait": longest_wait}
    decision = decide_now(attempt=attempt, policy=policy, rng=random.Random(seed), **options)
    assert isinstance(decision, Park)
    assert (decision.charged, decision.backoff_until) == (False, NOW + early_by)
    assert decision.next_attempt_at <= NOW + early_by
    assert gate.governs or decision.next_attempt_at == NOW + early_by


@unhurried
@given(policies, attempts, ages, gates, st.none() | waits, st.none() | waits, st.integers())
def test_nothing_is_due_after_the_end_of_its_round_or_the_expiry_of_its_event(
    policy, attempt, age, gate, early_by, expires_in, seed
):
    until, expires_at = (None if seconds is None else NOW + seconds for seconds in (early_by, expires_in))
    options = {"age": age, "gate": gate, "backoff_until": until, "expires_at": expires_at}
    decision = decide_now(with_retry_after(3), attempt, policy, random.Random(seed), **options)
    assume(not isinstance(decision, GiveUp))
    assert decision.next_attempt_at <= NOW - age + policy.max_age + 1e-5
    assert expires_at is None or decision.next_attempt_at <= expires_at + 1e-5


@unhurried
@given(
    policy=st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 12),
        base=st.floats(1e-3, 1e3),
        jitter=st.sampled_from(["proportional", "full", "equal", "none"]),
        max_age=st.just(1e12),
    ),
    seed=st.integers(),
    send_seconds=st.floats(0, 30),
)
def test_a_gate_never_exhausts_a_round_sooner_than_the_policy_alone(policy, seed, send_seconds):
    """Every delivery is sent as soon as it is due, however early: the worst that a gate can do."""
    rng, now, charged, until, own = random.Random(seed), 0.0, 0, None, 0.0
    while True:
        now += send_seconds
        options = {"round_started_at": 0.0, "gate": PROBING, "backoff_until": until}
        decision = decide(TRANSIENT, charged + 1, policy, rng, now, **options)
        if isinstance(decision, GiveUp):
            break
        if decision.charged:
            charged, until = charged + 1, decision.backoff_until
            own += decision.own_delay
        now = decision.next_attempt_at if send_seconds else until
    assert decision == GiveUp("exhausted")
    assert charged + 1 == policy.max_attempts
    assert now >= own * (1 - 1e-9)
