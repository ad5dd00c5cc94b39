"""Gates in the store: one row per endpoint, changed by compare-and-set."""

import random
from dataclasses import asdict, fields, replace

import pytest

from resonant.delivery.verdict import Verdict
from resonant.gate.controller import EndpointGate
from resonant.gate.measurements import Answer
from resonant.store import schema
from resonant.store.shared.gates import (
    FailingType,
    Gate,
    GateChange,
    change_gate,
    holds_for_long,
    read_gate,
    read_gates,
)
from resonant.store.views.standing import standing

START = 1_700_000_000.0
NORMAL = Gate("orders")
PROBING = replace(NORMAL, state="probing", failing_since=5.0, probe_at=7.0)
GONE = Answer(Verdict("permanent", "http_410", gone=True), 410, 0.01, 1, "t")


def test_a_gate_is_normal_until_a_change_is_written_which_raises_the_epoch(desk):
    assert (desk.read(read_gate, "orders"), desk.read(read_gates)) == (NORMAL, {})
    change = GateChange(NORMAL, PROBING)

    assert desk.write(change_gate, change)
    assert desk.read(read_gate, "orders") == change.result == replace(PROBING, epoch=1)
    assert desk.read(read_gates) == {"orders": change.result}


def test_a_gate_has_the_columns_of_its_row_in_their_order():
    assert [field.name for field in fields(Gate)] == [column.name for column in schema.gates.columns]


@pytest.mark.parametrize(
    ("gate", "is_down"),
    [
        (NORMAL, False),
        (PROBING, True),
        (replace(NORMAL, state="paused"), True),
        (replace(NORMAL, state="paced"), False),
        (replace(NORMAL, state="paced", failing_since=5.0), True),
    ],
)
def test_an_endpoint_is_down_until_it_is_back_to_normal(gate, is_down):
    assert gate.is_down == is_down


def test_the_failing_types_are_stored_with_the_gate(desk):
    failing = (FailingType("Zoë", 1.5, "http 503", 2.0, 3.25), FailingType('a "b"', 1.0, "", 7.0, 4.0))
    assert desk.write(change_gate, GateChange(NORMAL, replace(NORMAL, failing=failing)))
    gate = desk.read(read_gate, "orders")
    assert gate.failing == failing
    assert desk.write(change_gate, GateChange(gate, replace(gate, failing=())))
    assert desk.read(read_gate, "orders").failing == ()


def test_a_gate_keeps_the_twenty_types_that_were_tried_last_for_an_hour():
    gate = NORMAL.with_failing(FailingType(f"t{n}", 1.0, "", 2.0, 100.0 - n) for n in range(25))
    latest = [f"t{n}" for n in range(19, -1, -1)]
    assert [each.event_type for each in gate.failing] == latest
    assert list(gate.failing_at(100)) == latest
    assert list(gate.failing_at(90 + 3_600)) == [f"t{n}" for n in range(9, -1, -1)]
    assert gate.failing_at(100 + 3_600) == {}


def test_a_change_is_refused_if_another_process_has_delivered_meanwhile(desk):
    desk.enqueue("evt_1", "evt_2")
    desk.enqueue("evt_3", endpoint="billing")
    began = desk.clock()
    desk.clock.advance(1)
    change = GateChange(NORMAL, PROBING, none_delivered_since=began)

    desk.deliver(desk.claim_one(endpoint="billing"))
    assert desk.write(change_gate, replace(change, before=Gate("x"), after=replace(PROBING, endpoint="x")))
    desk.deliver(desk.claim_one())
    assert not desk.write(change_gate, change)
    assert desk.read(read_gate, "orders") == NORMAL


def test_gates_that_have_been_normal_for_an_hour_and_have_learned_nothing_are_removed(desk):
    now = desk.read(read_gates).at
    gates = {
        "forgotten": {"since": -3_700},
        "forgotten-pace": {"since": -3_700, "pace": 5.0, "probed_type": "a", "not_before": -3_700},
        "recent": {"since": -3_500},
        "held": {"since": -3_700, "not_before": -3_500},
        "paced": {"since": -3_700, "state": "paced"},
        "paused": {"since": -3_700, "state": "paused"},
        "failing": {"since": -3_700, "failing": (FailingType("a", 1.0, "http 503", 2.0, 3.0),)},
    }
    for name, parts in gates.items():
        moments = parts.keys() & {"since", "not_before"}
        times = {moment: now + parts[moment] for moment in moments}
        assert desk.write(change_gate, GateChange(Gate(name), Gate(name, **parts | times)))
    desk.fold()
    assert desk.read(read_gates).keys() == gates.keys() - {"forgotten", "forgotten-pace"}


def test_a_process_that_knew_a_removed_gate_sees_its_next_change_and_may_change_it(desk):
    def propose(process, now):
        change = process.answered(process.sent(now), GONE, now)
        process.see(change.result if desk.write(change_gate, change) else desk.read(read_gate, "orders"))

    now = desk.read(read_gates).at
    old = replace(NORMAL, since=now - 3_700, epoch=57)
    desk.execute(schema.gates.insert().values(asdict(old) | {"failing": None}))
    first, second, third = (
        EndpointGate(desk.read(read_gate, "orders"), name, random.Random(1)) for name in "abc"
    )
    desk.run(desk.store.fold())
    assert desk.read(read_gates) == {}
    for process in (first, second):
        process.see(desk.read(read_gate, "orders"))
        assert process.row == old
    fresh = EndpointGate(desk.read(read_gate, "orders"), "fresh", random.Random(1))
    propose(fresh, now)
    assert fresh.row.epoch > old.epoch
    first.see(desk.read(read_gate, "orders"))
    assert first.row == fresh.row, "it follows another process's change"
    propose(third, now)
    assert third.row == fresh.row, "its own change is refused, since another process was faster"

    desk.execute(schema.gates.delete())
    propose(second, now)
    assert desk.read(read_gate, "orders") == second.row != old, "its own change is written"


HOLDS = [
    ({}, False),
    ({"state": "paced", "failing_since": -100}, False),
    ({"state": "paused"}, True),
    ({"state": "probing", "failing_since": -20}, False),
    ({"state": "probing", "failing_since": -30}, True),
    ({"state": "probing", "since": -20}, False),
    ({"state": "probing", "since": -30}, True),
    ({"not_before": 30}, False),
    ({"not_before": 40}, True),
]


def test_a_gate_that_is_paused_or_long_down_holds_for_long(desk):
    desk.enqueue("evt_leased")
    desk.claim_one()
    desk.enqueue("evt_2")
    desk.enqueue("evt_elsewhere", endpoint="billing")
    ids = [row["id"] for row in desk.rows(schema.deliveries)]
    now = desk.read(read_gates).at
    for parts, is_held in HOLDS:
        times = {name: now + value for name, value in parts.items() if name != "state"}
        gate = replace(NORMAL, **parts | times)
        desk.execute(schema.gates.delete())
        assert desk.write(change_gate, GateChange(NORMAL, gate))

        assert holds_for_long(gate, now) == is_held, parts
        found = desk.read(standing, ids, now=START)
        assert [each.held for each in sorted(found)] == [False, is_held, False], parts
