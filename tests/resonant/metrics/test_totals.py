"""The gauges of gates: read from the store, in the snapshot of the other counters and gauges."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resonant.metrics.totals import read_totals
from resonant.store.shared.gates import Gate, GateChange, change_gate


def gate(desk, state, **fields):
    """Write a gate of the endpoint ``orders``."""
    before = Gate("orders")
    change = GateChange(before, replace(before, state=state, since=desk.clock(), **fields))
    assert desk.write(change_gate, change)
    return change.result


def totals(desk):
    return desk.read(read_totals, now=desk.clock())


def test_gates_are_read_by_endpoint(desk):
    assert totals(desk).gates == {}
    written = gate(desk, "paced", pace=5.0)
    assert totals(desk).gates == {"orders": written}


@pytest.mark.parametrize("state", ["probing", "paced", "paused"])
def test_deliveries_that_are_due_at_an_endpoint_that_is_not_normal_are_held(desk, state):
    desk.enqueue("due", "parked", "sending")
    desk.enqueue("other", endpoint="crm")
    leases = {lease.event.id: lease for lease in desk.claim()}
    desk.fail(leases["parked"], desk.park_for(60))
    desk.run(desk.store.release([leases["due"]]))
    assert totals(desk).held == {}

    gate(desk, state)

    assert totals(desk).held == {"orders": 1}


def test_a_retry_after_holds_due_events_until_it_ends(desk):
    desk.enqueue("evt_1", "evt_2")
    gate(desk, "normal", not_before=desk.clock() + 30)
    assert totals(desk).held == {"orders": 2}
    desk.clock.advance(30)
    assert totals(desk).held == {}


def test_the_oldest_round_is_known_by_endpoint_and_policy(desk):
    start = desk.clock()
    desk.enqueue("evt_1", policy="patient")
    desk.clock.advance(10)
    desk.enqueue("evt_2")
    desk.clock.advance(10)
    desk.enqueue("evt_3", "evt_4")
    desk.enqueue("evt_1", endpoint="crm")
    assert totals(desk).oldest_round_at == {
        ("orders", "patient"): start,
        ("orders", None): start + 10,
        ("crm", None): start + 20,
    }

    desk.deliver(desk.claim_one())

    assert ("orders", "patient") not in totals(desk).oldest_round_at


def test_deliveries_of_several_policies_are_counted_together(desk):
    desk.enqueue("evt_1", policy="patient")
    desk.enqueue("evt_2")
    gate(desk, "paused", paused_by="ada")
    found = totals(desk)
    assert found.deliveries == {("orders", "pending"): 2}
    assert found.held == {"orders": 2}
