"""What a failure costs a delivery that a gate let go before its own backoff was over."""

from __future__ import annotations

import pytest

from resonant.delivery.retry import GiveUp, Park
from resonant.store.queue.rescue import LOST_LEASES_BEFORE_GIVING_UP

FACTS = ("attempts", "round_attempts", "last_delay", "backoff_until")


def facts(desk):
    row = desk.row("evt_1")
    return tuple(row[name] for name in FACTS)


@pytest.fixture
def governed(desk):
    """A store whose delivery failed once, is due in 1 s, and has a backoff of its own of 300 s."""
    desk.enqueue("evt_1")
    now = desk.clock()
    desk.fail(desk.claim_one(), Park(1.0, now + 1, backoff_until=now + 300))
    return desk


def fail_early(desk, **attempt):
    lease, now = desk.claim_one(), desk.clock()
    desk.fail(lease, Park(1.0, now + 1, backoff_until=lease.backoff_until, charged=False), **attempt)


def test_it_is_due_early_and_keeps_its_own_backoff(governed):
    now = governed.clock()
    assert facts(governed) == (1, 1, 300.0, now + 300)
    assert governed.row("evt_1")["available_at"] == governed.row("evt_1")["next_attempt_at"] == now + 1
    governed.clock.advance(1)
    lease = governed.claim_one()
    assert (lease.attempts, lease.round_attempts, lease.last_delay) == (1, 1, 300.0)
    assert (lease.backoff_until, lease.crashes) == (now + 300, 0)


def test_an_early_failure_is_in_the_history_and_charges_nothing(governed):
    before = facts(governed)
    for _ in range(3):
        governed.clock.advance(1)
        fail_early(governed)
    assert facts(governed) == (4, *before[1:])
    row = governed.row("evt_1")
    assert (row["status"], row["lease_owner"]) == ("retrying", None)
    assert row["available_at"] == row["next_attempt_at"] == governed.clock() + 1
    assert [attempt.early for attempt in governed.history("evt_1")] == [False, True, True, True]
    assert [attempt.number for attempt in governed.history("evt_1")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "make", [lambda desk: desk.retry_in(9), lambda desk: desk.park_for(900), lambda _desk: GiveUp("expired")]
)
def test_a_charged_failure_ends_the_own_backoff(governed, make):
    governed.clock.advance(300)
    governed.fail(governed.claim_one(), decision := make(governed))
    delay = getattr(decision, "delay", 300.0)
    assert facts(governed) == (2, 2, delay, None)


def test_a_delivery_ends_the_own_backoff(governed):
    governed.clock.advance(1)
    assert governed.deliver(governed.claim_one())
    assert facts(governed) == (2, 2, 300.0, None)


def test_a_lost_worker_leaves_the_own_backoff_and_is_known_to_the_next(governed):
    governed.clock.advance(1)
    lost = governed.claim_one()
    governed.begin(lost)
    governed.clock.advance(61)
    governed.rescue()
    lease = governed.claim_one()
    assert (lease.crashes, lease.attempts, lease.round_attempts) == (1, 2, 1)
    assert lease.backoff_until == lost.backoff_until


def test_a_replay_begins_without_an_own_backoff(governed):
    for _ in range(LOST_LEASES_BEFORE_GIVING_UP):
        governed.clock.advance(61)
        governed.begin(governed.claim_one())
        governed.clock.advance(61)
        governed.rescue()
    assert governed.row("evt_1")["reason"] == "crashed"
    governed.clock.advance(1)
    [lease] = governed.replay().leases
    assert (lease.backoff_until, lease.last_delay, lease.crashes) == (None, None, 0)
    assert facts(governed)[1:] == (0, None, None)


def test_cancelling_ends_the_own_backoff(governed):
    governed.cancel()
    assert facts(governed) == (1, 1, 300.0, None)


def test_the_detail_of_a_delivery_says_when_its_own_backoff_ends(governed):
    assert governed.delivery("evt_1").backoff_until == governed.clock() + 300
