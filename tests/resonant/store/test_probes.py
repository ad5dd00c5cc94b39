"""The one delivery that probes an endpoint that is down."""

from __future__ import annotations

from dataclasses import replace

from resonant.store.gates import Gate, GateChange, change_gate, read_gate
from resonant.store.leases import look
from resonant.store.probes import claim_probe
from resonant.store.store import Store


def probing(desk, **fields):
    """Make the gate of `orders` probe, and return it."""
    change = GateChange(Gate("orders"), Gate("orders", state="probing", failing_since=1.0, **fields))
    assert desk.write(change_gate, change)
    return change.result


def probe(desk, gate):
    """Reserve a probe; return the id of its event and the gate, None where there is none."""
    change = GateChange(gate, replace(gate, probe_at=desk.clock() + 5))
    found = desk.run(desk.store.claim_leases(claim_probe, change, owner="worker"))
    return found and (found[0].event.id, found[1])


def test_a_probe_takes_another_event_type_than_the_last_one_and_notes_its_own(desk):
    desk.enqueue(desk.make("evt_1", event_type="a"))
    desk.clock.advance(1)
    desk.enqueue(desk.make("evt_2", event_type="b"))

    event_id, gate = probe(desk, probing(desk, probed_type="a"))

    assert event_id == "evt_2"
    assert gate.probed_type == "b"
    assert gate == desk.read(read_gate, "orders")
    assert probe(desk, gate)[0] == "evt_1", "the only one left"


def test_a_probe_takes_the_delivery_with_the_fewest_attempts(desk):
    desk.enqueue("evt_1")
    desk.fail(desk.claim_one(), desk.park_for(0))
    desk.enqueue("evt_2")

    assert probe(desk, probing(desk))[0] == "evt_2"


def test_a_probe_is_leased_like_any_delivery_and_the_claim_is_noted(desk):
    desk.enqueue("evt_1")
    probe(desk, probing(desk))

    assert desk.delivery("evt_1").leased_by == "worker"
    assert desk.delivery("evt_1").lease_until == desk.clock() + desk.store.lease_seconds
    assert desk.claim() == []


def test_no_probe_is_reserved_while_nothing_is_due(desk):
    desk.enqueue("evt_1")
    desk.fail(desk.claim_one(), desk.park_for(100))
    gate = probing(desk)

    assert probe(desk, gate) is None
    assert desk.read(read_gate, "orders") == gate


def test_of_two_processes_one_probes(desk):
    desk.enqueue("evt_1", "evt_2")
    gate = probing(desk)

    assert probe(desk, gate) is not None
    assert probe(desk, gate) is None
    assert len(desk.claim()) == 1


def test_a_look_reads_what_is_due_and_the_gates_together(desk):
    desk.enqueue("evt_1")
    gate = probing(desk)

    due, gates = desk.read(look)

    assert [each.endpoint for each in due] == ["orders"]
    assert gates == {"orders": gate}
    assert desk.run(Store.look(desk.store, "orders")) == (due, gates)
