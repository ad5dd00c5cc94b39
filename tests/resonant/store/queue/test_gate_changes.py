"""Changes of gates are written with the events about them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resonant.store import schema
from resonant.store.queue.gate_changes import change_and_report, try_changes
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
