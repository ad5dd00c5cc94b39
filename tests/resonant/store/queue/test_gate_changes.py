"""Changes of gates are written with the events about them."""

from dataclasses import replace

import pytest

from resonant.store import schema
from resonant.store.queue.gate_changes import change_and_report, event_of, try_changes
from resonant.store.shared.announcements import read_announcements
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate, read_gates
from support.subscriptions import subscribe

NORMAL = Gate("orders")
PROBING = replace(NORMAL, state="probing", failing_since=5.0, probe_at=7.0)


def test_changes_of_several_gates_are_tried_together_and_each_gate_is_read_again(desk):
    first = GateChange(NORMAL, PROBING)
    other = GateChange(Gate("billing"), Gate("billing", state="paced"))
    assert desk.write(change_gate, first)

    late = GateChange(NORMAL, replace(NORMAL, state="paused"))
    tried = desk.write(try_changes, [late, other], now=desk.clock())

    assert tried == [(other, other.result), (late, first.result)]
    assert desk.read(read_gates) == {"billing": other.result, "orders": first.result}


def test_a_refused_change_causes_no_event_and_a_rollback_undoes_both(desk):
    subscribe(desk, "chat", "resonant.*")
    change = GateChange(NORMAL, PROBING)
    assert desk.write(change_gate, GateChange(NORMAL, replace(NORMAL, state="paced")))

    assert not desk.write(change_and_report, change, now=desk.clock())
    assert desk.rows(schema.events) == []

    def change_and_die(connection):
        change = GateChange(read_gate(connection, "orders"), PROBING)
        assert change_and_report(connection, change, now=desk.clock())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        desk.write(change_and_die)
    assert desk.rows(schema.events) == []
    assert desk.read(read_gate, "orders").state == "paced"


def test_a_change_of_the_state_is_announced_in_its_transaction_and_a_renewed_lease_is_not(desk):
    change = GateChange(NORMAL, PROBING)
    assert desk.write(change_and_report, change, now=desk.clock())
    probed = GateChange(change.result, replace(change.result, probe_at=9.0))
    assert desk.write(change_and_report, probed, now=desk.clock())
    assert not desk.write(change_and_report, change, now=desk.clock()), "another process was faster"

    [announcement] = desk.read(read_announcements)

    assert announcement.event == event_of(NORMAL, change.result)
    assert announcement.sent_at is None


def test_an_event_for_prefect_names_the_state_the_endpoint_and_the_reason():
    after = Gate("orders", "paced", since=1_800_000_000.5, reason="9 failures in a row", pace=2.5)

    assert event_of(NORMAL, after) == {
        "event": "resonant.gate.paced",
        "occurred": "2027-01-15T08:00:00.500Z",
        "resource": {"prefect.resource.id": "resonant.endpoint.orders", "prefect.resource.name": "orders"},
        "payload": {
            "endpoint": "orders",
            "state": "paced",
            "before": "normal",
            "since": "2027-01-15T08:00:00.500Z",
            "failing_since": None,
            "reason": "9 failures in a row",
            "pace": 2.5,
            "paused_by": None,
        },
    }
