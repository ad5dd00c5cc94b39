"""The messages of a command about its own deliveries."""

import asyncio

import pytest

from resonant import output
from resonant.cli.outcomes import holding, tracked
from resonant.dispatch.tracking import Tracker
from resonant.gate.pausing import pause
from resonant.store.shared.gates import KEPT_SECONDS, FailingType, Gate, GateChange, change_gate

GOES_ON = "a running drain sends them"


def interrupted(worker, **options) -> str:
    """Return what Ctrl-C says while a command waits for its deliveries."""

    async def work(store):
        tracker = Tracker(store)
        tracker.add(
            await store.read(
                lambda opened: opened.exec_driver_sql("SELECT id FROM resonant_deliveries").scalars()
            )
        )
        with pytest.raises(output.Interrupted) as stop:
            async with tracked(tracker, "emitting", store=store, hidden=True, goes_on=GOES_ON):
                raise asyncio.CancelledError
        return str(stop.value)

    return worker.do(work)


def test_ctrl_c_counts_the_waiting_deliveries_and_says_how_they_are_sent(worker):
    worker.accept("e1", "e2")
    assert interrupted(worker) == f"interrupted: 0 of 2 delivered, 2 wait: {GOES_ON}"


def test_ctrl_c_promises_no_send_while_a_gate_holds_the_deliveries(worker):
    worker.accept("e1", "e2")
    worker.do(lambda store: pause(store, "billing", who="ann", reason="maintenance"))

    said, *held, then = interrupted(worker).split("; ")

    assert said.startswith("interrupted: 0 of 2 delivered, 2 wait: billing is paused for ")
    assert held == ["2 held", "next: `resonant endpoint resume billing` sends again"]
    assert then == f"then {GOES_ON}"


def test_the_progress_names_the_gates_that_hold_deliveries(worker):
    worker.accept("e1")
    assert worker.do(holding) == ""
    worker.do(lambda store: pause(store, "billing", who="ann"))
    assert worker.do(holding) == "billing is paused"
    assert worker.do(lambda store: holding(store, "crm")) == ""


def test_the_progress_names_the_types_that_fail_at_this_time(worker):
    worker.accept("e1", event_type="bad")
    now = worker.clock()
    failing = (
        FailingType("bad", now - 60, "http 500", now + 60, now),
        FailingType("forgotten", now - 9_000, "http 500", now, now - KEPT_SECONDS),
    )
    change = GateChange(Gate("billing"), Gate("billing", failing=failing))
    worker.do(lambda store: store.write(change_gate, change))
    assert worker.do(holding) == "billing holds bad"
