"""What is decided after a failure while the endpoint's gate governs."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resonant.delivery.retry import GateView, GiveUp, Park, Retry, RetryPolicy, draw_delay
from resonant.delivery.verdict import Verdict
from support.retries import NOW, STEADY, TRANSIENT, CountingRandom, decide_now, policies, told, unhurried

PACED = GateView(governs=True)
PROBING = GateView(governs=True, is_down=True)
DNS_NOT_FOUND = Verdict("unknown", "dns_not_found")
CERTIFICATE = Verdict("permanent", "tls_certificate")

gates = st.sampled_from([GateView(), PACED, PROBING])
governing = st.sampled_from([PACED, PROBING])
attempts = st.integers(1, 9)
last_delays = st.none() | st.floats(0, 1e5)
waits = st.floats(1e-3, 1e5)
patient_policies = policies.map(lambda policy: replace(policy, max_age=1e9))


def first_backoffs(policy):
    """Return the longest first backoff that this policy draws."""
    if policy.jitter == "decorrelated":
        return min(policy.cap, max(policy.base, 3 * policy.base))
    return min(policy.cap, policy.base) * (1 + policy.spread)


def test_a_late_retry_is_due_after_the_first_backoff_and_keeps_its_own():
    assert decide_now(attempt=8, gate=PACED) == Park(1.0, NOW + 1, backoff_until=NOW + 3**7)
    assert decide_now(attempt=1, gate=PACED) == Park(1.0, NOW + 1, backoff_until=NOW + 1)


def test_a_failure_before_the_end_of_its_own_backoff_is_not_charged_and_does_not_move_that_end():
    assert decide_now(attempt=8, gate=PROBING, backoff_until=NOW + 500) == Park(
        1.0, NOW + 1, backoff_until=NOW + 500, charged=False
    )
    assert decide_now(attempt=8, gate=PROBING, backoff_until=NOW + 0.25) == Park(
        0.25, NOW + 0.25, backoff_until=NOW + 0.25, charged=False
    )
    charged = decide_now(attempt=8, gate=PROBING, backoff_until=NOW)
    assert charged == decide_now(attempt=8, gate=PROBING)


def test_an_early_failure_behind_a_normal_gate_waits_until_its_own_backoff_is_over():
    assert decide_now(attempt=8, backoff_until=NOW + 500) == Park(
        500.0, NOW + 500, backoff_until=NOW + 500, charged=False
    )


def test_an_early_failure_does_not_exhaust_the_round():
    policy = replace(STEADY, max_attempts=4)
    assert decide_now(attempt=4, policy=policy, gate=PROBING) == GiveUp("exhausted")
    assert isinstance(decide_now(attempt=4, policy=policy, gate=PROBING, backoff_until=NOW + 9), Park)
    assert isinstance(decide_now(DNS_NOT_FOUND, attempt=4, policy=policy, backoff_until=NOW + 9), Park)


@pytest.mark.parametrize(("verdict", "reason"), [(DNS_NOT_FOUND, "exhausted"), (CERTIFICATE, "permanent")])
def test_failures_that_an_operator_can_fix_are_not_given_up_while_the_endpoint_is_down(verdict, reason):
    def decided(gate):
        return decide_now(verdict, attempt=5, answered=False, gate=gate)

    assert decided(GateView()) == decided(PACED) == GiveUp(reason)
    assert decided(PROBING) == Park(1.0, NOW + 1, backoff_until=NOW + 81)


def test_while_the_endpoint_is_down_the_budget_and_the_age_still_end_a_round():
    policy = replace(STEADY, max_attempts=5)
    for verdict in (TRANSIENT, DNS_NOT_FOUND, CERTIFICATE):
        options = {"answered": False, "gate": PROBING}
        assert decide_now(verdict, attempt=5, policy=policy, **options) == GiveUp("exhausted")
        assert decide_now(verdict, age=policy.max_age, **options) == GiveUp("expired")


def test_a_permanent_answer_is_given_up_at_once_even_while_the_endpoint_is_down():
    assert decide_now(Verdict("permanent", "http_400"), gate=PROBING) == GiveUp("permanent")
    local = Verdict("permanent", "invalid_request", blame="local")
    assert decide_now(local, answered=False, gate=PROBING) == GiveUp("permanent")


def test_under_a_gate_a_retry_that_its_own_backoff_would_expire_is_still_tried_within_the_round():
    age = STEADY.max_age - 100
    assert decide_now(attempt=8, age=age) == GiveUp("expired")
    assert decide_now(attempt=8, age=age, gate=PACED) == Park(1.0, NOW + 1, backoff_until=NOW + 3**7)


@unhurried
@given(
    patient_policies,
    attempts,
    last_delays,
    governing,
    st.integers(),
    st.sampled_from([0.0, math.inf]),
    st.booleans(),
)
def test_a_gate_never_delays_a_retry_beyond_its_first_backoff_nor_beyond_its_own(
    policy, attempt, last_delay, gate, seed, longest_wait, answered
):
    facts = {"last_delay": last_delay, "longest_wait": longest_wait, "answered": answered}
    own = decide_now(attempt=attempt, policy=policy, rng=random.Random(seed), **facts)
    governed = decide_now(attempt=attempt, policy=policy, rng=random.Random(seed), gate=gate, **facts)
    assert isinstance(governed, Park)
    assert governed.charged
    assert governed.delay <= min(own.delay, first_backoffs(policy) * (1 + 1e-12))
    assert governed.backoff_until == own.next_attempt_at, "its own backoff is what the policy alone draws"
    assert governed.own_delay == pytest.approx(own.delay, abs=1e-6)


@unhurried
@given(patient_policies, attempts, st.floats(0, 1e6), gates, st.none() | waits, st.integers())
def test_retry_after_is_a_floor_under_each_gate_and_for_each_early_failure(
    policy, attempt, seconds, gate, early_by, seed
):
    until = None if early_by is None else NOW + early_by
    decision = decide_now(told(seconds), attempt, policy, random.Random(seed), gate=gate, backoff_until=until)
    assert decision.delay >= seconds
    assert decision.next_attempt_at == NOW + decision.delay
    if isinstance(decision, Park) and decision.charged and decision.backoff_until is not None:
        assert decision.backoff_until >= decision.next_attempt_at


@unhurried
@given(patient_policies, attempts, gates, waits, st.integers(), st.sampled_from([0.0, math.inf]))
def test_an_early_failure_is_never_charged_and_never_waits_longer_than_its_own_backoff(
    policy, attempt, gate, early_by, seed, longest_wait
):
    until = NOW + early_by
    decision = decide_now(
        attempt=attempt,
        policy=policy,
        rng=random.Random(seed),
        gate=gate,
        backoff_until=until,
        longest_wait=longest_wait,
    )
    assert isinstance(decision, Park)
    assert (decision.charged, decision.backoff_until) == (False, until)
    assert decision.next_attempt_at <= until
    assert gate.governs or decision.next_attempt_at == until


@unhurried
@given(policies, st.integers(1, 12), gates, st.none() | waits, last_delays, st.integers(), st.floats(0, 2e5))
def test_a_decision_under_a_gate_depends_only_on_its_arguments_and_draws_three_times_at_most(
    policy, attempt, gate, early_by, last_delay, seed, age
):
    facts = {"gate": gate, "backoff_until": None if early_by is None else NOW + early_by, "age": age}
    facts["last_delay"] = last_delay
    rng = CountingRandom(seed)
    decision = decide_now(told(5), attempt, policy, rng, **facts)
    assert decision == decide_now(told(5), attempt, policy, random.Random(seed), **facts)
    assert rng.draws <= 3


@unhurried
@given(policies, attempts, st.floats(0, 2e5), gates, st.none() | waits, st.integers())
def test_nothing_is_due_after_the_end_of_its_round(policy, attempt, age, gate, early_by, seed):
    until = None if early_by is None else NOW + early_by
    decision = decide_now(
        told(3), attempt, policy, random.Random(seed), age=age, gate=gate, backoff_until=until
    )
    assume(not isinstance(decision, GiveUp))
    assert decision.next_attempt_at <= NOW - age + policy.max_age + 1e-5


@unhurried
@given(
    policy=st.builds(
        RetryPolicy,
        max_attempts=st.integers(1, 12),
        base=st.floats(1e-3, 1e3),
        jitter=st.sampled_from(["proportional", "full", "equal", "none"]),
    ),
    seed=st.integers(),
    send_seconds=st.floats(0, 30),
)
def test_a_gate_never_ends_a_round_by_its_attempts_sooner_than_the_policy_alone(policy, seed, send_seconds):
    """Every delivery is sent as soon as it is due, however early: the worst that a gate can do."""
    rng, now, charged, until, own = random.Random(seed), 0.0, 0, None, 0.0
    patient = replace(policy, max_age=1e12)
    while True:
        now += send_seconds
        decision = decide_now_at(now, charged + 1, patient, rng, until)
        if isinstance(decision, GiveUp):
            break
        if decision.charged:
            charged, until = charged + 1, decision.backoff_until
            own += decision.own_delay
        now = decision.next_attempt_at if send_seconds else until
    assert decision == GiveUp("exhausted")
    assert charged + 1 == policy.max_attempts
    assert now >= own * (1 - 1e-9)


def decide_now_at(now, attempt, policy, rng, until):
    from resonant.delivery.retry import decide

    return decide(
        TRANSIENT, attempt, policy, rng, now, round_started_at=0.0, gate=PROBING, backoff_until=until
    )


def test_without_a_gate_nothing_is_decided_differently():
    for attempt in range(1, 12):
        decision = decide_now(attempt=attempt, gate=GateView())
        assert decision == decide_now(attempt=attempt)
        assert isinstance(decision, Retry | GiveUp) or decision.backoff_until is None


@pytest.mark.parametrize("jitter", ["proportional", "full", "equal", "decorrelated"])
def test_what_a_gate_lets_go_early_is_spread_by_the_dice(jitter):
    policy, rng = RetryPolicy(jitter=jitter), random.Random(7)
    delays = [decide_now(attempt=8, policy=policy, rng=rng, gate=PROBING).delay for _ in range(100)]
    assert len(set(delays)) == 100
    assert max(delays) <= max(draw_delay(policy, 1, rng) for _ in range(1_000)) * 1.01
