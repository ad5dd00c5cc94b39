"""Pausing and resuming an endpoint, and making its parked deliveries due."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from resonant.delivery.retry import Park
from resonant.store.shared.gate_operations import make_parked_due, pause, resume
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate

DAY = 86_400.0
PACED = Gate("orders", "paced", since=5.0, pilot="p1", pilot_until=9.0, paced_at=5.0, pace=4.0)
PROBING = Gate("orders", "probing", since=5.0, failing_since=5.0, probe_at=7.0, probed_type="a", pace=4.0)
GONE = Gate("orders", "paused", since=5.0, reason="it answered 410")


def put(desk, gate):
    """Let a process change the gate of an endpoint."""
    assert desk.write(change_gate, GateChange(desk.read(read_gate, gate.endpoint), gate))


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (Gate("orders"), {}),
        (PACED, {"paced_at": 5.0, "pace": 4.0}),
        (PROBING, {"failing_since": 5.0}),
    ],
)
def test_a_pause_keeps_the_outage_or_the_pace_before_it(desk, before, kept):
    if before.state != "normal":
        put(desk, before)

    change = desk.write(pause, "orders", who="ann", reason="maintenance", now=desk.clock())

    epoch = 1 + (before.state != "normal")
    expected = Gate("orders", "paused", epoch, desk.clock(), "maintenance", paused_by="ann", **kept)
    assert desk.read(read_gate, "orders") == change.result == expected


def test_a_pause_keeps_a_retry_after(desk):
    put(desk, replace(PACED, not_before=desk.clock() + 60))
    desk.write(pause, "orders", who="ann", now=desk.clock())
    assert desk.read(read_gate, "orders").not_before == desk.clock() + 60


def test_a_second_pause_changes_nothing(desk):
    first = desk.write(pause, "orders", who="ann", reason="maintenance", now=desk.clock())

    second = desk.write(pause, "orders", who="bob", reason="holidays", now=desk.clock() + 5)

    assert second.before == second.after == first.result == desk.read(read_gate, "orders")


def test_an_operators_pause_takes_over_the_pause_of_a_410(desk):
    put(desk, GONE)
    assert GONE.is_gone

    desk.write(pause, "orders", who="ann", reason="retired", now=desk.clock())

    gate = desk.read(read_gate, "orders")
    assert (gate.is_gone, gate.paused_by, gate.reason) == (False, "ann", "retired")


@pytest.mark.parametrize("before", [Gate("orders"), PACED, PROBING, GONE])
def test_a_resumed_endpoint_is_as_before_the_pause_and_probed_at_once_if_it_failed(desk, before):
    if before.state != "normal":
        put(desk, before)
    desk.write(pause, "orders", who="ann", reason="maintenance", now=desk.clock())
    desk.clock.advance(DAY)

    change = desk.write(resume, "orders", now=desk.clock())

    now = desk.clock()
    expected = Gate("orders", epoch=change.before.epoch + 1, since=now, reason="it was resumed")
    if before.state == "paced":
        expected = replace(expected, state="paced", paced_at=now, pace=4.0)
    elif before.state != "normal":
        expected = replace(expected, state="probing", failing_since=now, probe_at=now)
    assert desk.read(read_gate, "orders") == change.result == expected


def test_an_endpoint_that_answered_410_is_probed_when_it_is_resumed(desk):
    put(desk, GONE)
    desk.write(resume, "orders", now=desk.clock())
    gate = desk.read(read_gate, "orders")
    assert (gate.state, gate.probe_at) == ("probing", desk.clock())


def test_the_probe_of_a_failing_endpoint_is_due_when_it_is_resumed(desk):
    put(desk, replace(PROBING, probe_at=desk.clock() + 30, not_before=desk.clock() + 60))

    desk.write(resume, "orders", now=desk.clock())

    now = desk.clock()
    assert desk.read(read_gate, "orders") == replace(PROBING, since=now, probe_at=now, epoch=2)


@pytest.mark.parametrize("gate", [Gate("orders"), PACED, PROBING])
def test_resuming_a_normal_or_paced_endpoint_changes_nothing(desk, gate):
    if gate.state != "normal":
        put(desk, gate)
    before = desk.read(read_gate, "orders")

    change = desk.write(resume, "orders", now=desk.clock())

    assert change.before == change.after == before == desk.read(read_gate, "orders")


def test_a_pause_wins_over_processes_that_change_the_gate_all_the_time(desk):
    put(desk, PACED)

    async def renew():
        for second in range(20):
            gate = await desk.store.read(read_gate, "orders")
            renewed = replace(gate, pilot_until=10.0 + second)
            if gate.state == "paused" or not await desk.store.write(change_gate, GateChange(gate, renewed)):
                return

    async def both():
        pausing = desk.store.write(pause, "orders", who="ann", now=desk.clock())
        await asyncio.gather(renew(), pausing, renew())

    desk.run(both())
    assert desk.read(read_gate, "orders").state == "paused"


def test_only_one_of_two_concurrent_pauses_takes_effect(desk):
    async def both():
        each = [desk.store.write(pause, "orders", who=who, now=desk.clock()) for who in ("ann", "bob")]
        return await asyncio.gather(*each)

    changes = desk.run(both())

    assert sorted(change.before.state for change in changes) == ["normal", "paused"]
    assert desk.read(read_gate, "orders").epoch == 1


def park(desk, *ids, endpoint="orders", seconds=DAY):
    desk.enqueue(*ids, endpoint=endpoint)
    for lease in desk.claim(len(ids), endpoint=endpoint):
        desk.fail(lease, desk.park_for(seconds))


def test_parked_deliveries_of_the_endpoint_become_due(desk):
    park(desk, "evt_1", "evt_2")
    park(desk, "evt_other", endpoint="billing")
    desk.enqueue("evt_due", "evt_leased")
    leased = desk.claim(1)
    before = desk.row(leased[0].event.id)

    made_due = desk.write(make_parked_due, "orders", limit=10, now=desk.clock())

    assert made_due.number == 2
    assert desk.row(leased[0].event.id) == before
    assert {lease.event.id for lease in desk.claim(10, owner="other")} | {leased[0].event.id} == {
        *("evt_1", "evt_2", "evt_due", "evt_leased")
    }
    assert desk.claim(10, endpoint="billing") == []


def test_a_delivery_made_due_keeps_the_end_of_its_own_backoff(desk):
    park(desk, "evt_1")
    ends_at = desk.row("evt_1")["next_attempt_at"]

    desk.write(make_parked_due, "orders", limit=10, now=desk.clock())

    row = desk.row("evt_1")
    assert row["next_attempt_at"] == row["available_at"] == desk.clock()
    assert row["backoff_until"] == ends_at


def test_a_backoff_that_goes_on_beyond_the_next_attempt_keeps_its_end(desk):
    desk.enqueue("evt_1")
    ends_at = desk.clock() + DAY
    desk.fail(desk.claim_one(), Park(60.0, desk.clock() + 60, backoff_until=ends_at))

    for _ in range(2):
        desk.write(make_parked_due, "orders", limit=10, now=desk.clock())

    assert desk.row("evt_1")["backoff_until"] == ends_at


def test_parked_deliveries_are_made_due_a_few_at_a_time_and_each_once(desk):
    park(desk, *(f"evt_{number}" for number in range(5)))
    numbers, after = [], None
    while True:
        batch = desk.write(make_parked_due, "orders", limit=2, now=desk.clock(), after=after)
        numbers.append(batch.number)
        if batch.last is None:
            break
        after = batch.last
    assert numbers == [2, 2, 1, 0]
    assert len(desk.claim(10)) == 5
