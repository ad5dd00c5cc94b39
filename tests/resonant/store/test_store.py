"""The store as a whole: what must hold at every moment, whatever is done in whatever order."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resonant.delivery.retry import GiveUp
from resonant.store import schema
from support.examples import examples

_numbers = itertools.count()
_STEPS = (
    "enqueue",
    "claim",
    "begin",
    "deliver",
    "retry",
    "park",
    "give_up",
    "release",
    "wait",
    "rescue",
    "late",
)


@pytest.mark.slow
def test_a_batch_larger_than_a_statement_can_name_goes_through_every_operation(desk):
    events = [f"evt_{number}" for number in range(33_000)]
    assert desk.enqueue(*events).accepted == 33_000
    assert desk.enqueue(*events).known == 33_000
    leases = desk.claim(40_000)
    assert len(leases) == 33_000
    assert len(desk.begin(*leases)) == 33_000
    assert desk.run(desk.store.renew("worker")) == 33_000
    assert desk.run(desk.store.release_all("worker")) == 33_000
    status = desk.status()
    assert (status.pending, status.in_flight, status.balanced) == (33_000, 0, True)


@settings(
    max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.sampled_from(_STEPS), st.integers(0, 5)), min_size=20, max_size=60))
def test_after_any_steps_of_workers_the_balance_holds_and_the_counters_equal_the_facts(desk, steps):
    endpoint = f"endpoint-{next(_numbers)}"
    held, lost = [], []
    highest_token: Counter[int] = Counter()
    counted = 0.0
    for step, size in steps:
        _take_step(desk, endpoint, step, size, held, lost)
        for lease in held:
            assert lease.token >= highest_token[lease.delivery_id]
            highest_token[lease.delivery_id] = lease.token
        assert desk.status(endpoint=endpoint).balanced
        now_counted = sum(row["count"] + row["total"] for row in _rollups(desk, endpoint))
        assert now_counted >= counted
        counted = now_counted
    _assert_counters_equal_facts(desk, endpoint)


def _take_step(desk, endpoint, step, size, held, lost) -> None:  # noqa: C901 - one flat case for each step
    """Do one thing that a producer, a worker or time does; ``held`` and ``lost`` are the worker's leases."""
    match step, held[:1]:
        case "enqueue", _:
            desk.enqueue(*(f"{endpoint}-{number}" for number in range(size)), endpoint=endpoint)
        case "claim", _:
            held += desk.claim(size, endpoint=endpoint)
        case "begin", [lease]:
            desk.begin(lease)
        case "deliver", [lease]:
            assert desk.deliver(held.pop(0))
        case "retry", [lease]:
            decision = desk.retry_in(size)
            assert desk.fail(held.pop(0), decision)
            held.append(desk.counted_on(lease, decision))
        case "park", [_]:
            assert desk.fail(held.pop(0), desk.park_for(size * 20))
        case "give_up", [_]:
            assert desk.fail(held.pop(0), GiveUp("exhausted"), category="unknown", code="unknown")
        case "release", [_]:
            desk.run(desk.store.release([held.pop(0)]))
        case "wait", _:
            desk.clock.advance(size * 20)
        case "rescue", _:
            desk.rescue(endpoint=endpoint, owners=["worker"])
            lost += held
            held.clear()
        case "late", _ if lost:
            assert not desk.deliver(lost.pop())


def _rollups(desk, endpoint):
    desk.fold()
    return [row for row in desk.rows(schema.rollups) if row["endpoint"] == endpoint]


def _assert_counters_equal_facts(desk, endpoint) -> None:
    deliveries = {row["id"]: row for row in desk.rows(schema.deliveries) if row["endpoint"] == endpoint}
    attempts = [
        row for row in desk.rows(schema.attempts) if row["delivery_id"] in deliveries and not row["late"]
    ]
    facts = Counter({("accepted", "accepted", "", ""): len(deliveries)})
    for attempt in attempts:
        labels = (attempt["category"] or "", attempt["code"] or "")
        facts["attempt", attempt["result"], *labels] += 1
        if attempt["result"] == "failed" and attempt["decision"] in ("retry", "park"):
            facts["retry_delay", attempt["decision"], *labels] += 1
    for delivery in deliveries.values():
        if delivery["status"] == "delivered":
            facts["delivery", "delivered", "", ""] += 1
        elif delivery["status"] == "dead_letter":
            facts["delivery", "dead_letter", delivery["category"], delivery["code"]] += 1
    counters: Counter[tuple[str, str, str, str]] = Counter()
    for row in _rollups(desk, endpoint):
        counters[row["measure"], row["result"], row["category"], row["code"]] += row["count"]
    assert counters == +facts
    for delivery in deliveries.values():
        own = [attempt for attempt in attempts if attempt["delivery_id"] == delivery["id"]]
        assert [attempt["number"] for attempt in own] == list(range(1, delivery["attempts"] + 1))
