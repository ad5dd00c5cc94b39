"""Pausing and resuming by hand: each that changes something is in the audit."""

from __future__ import annotations

import asyncio

import pytest

from resonant.events import rfc3339
from resonant.gate.pausing import pause, resume
from resonant.store.audit import read_audit
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate, shared_now


def audit(desk):
    return [
        (each.action, each.who, each.selection, each.count, each.ended_at is None)
        for each in desk.read(read_audit)
    ]


def test_a_pause_and_a_resumption_are_in_the_audit(desk):
    said = desk.run(pause(desk.store, "orders", who="ann", reason="maintenance\nuntil 18:00"))
    assert str(said) == (
        "endpoint orders is paused: its deliveries wait until `resonant endpoint resume orders`"
    )
    desk.clock.advance(60)
    said = desk.run(resume(desk.store, "orders", who="bob"))
    assert str(said) == "endpoint orders is resumed: its deliveries are sent again"
    reason = {"endpoint": "orders", "reason": "maintenance until 18:00"}
    assert audit(desk) == [
        ("resume", "bob", {"endpoint": "orders", "now": False}, 0, False),
        ("pause", "ann", reason, 0, False),
    ]


def test_a_second_pause_says_who_paused_it_and_is_not_in_the_audit(desk):
    desk.run(pause(desk.store, "orders", who="ann", reason="maintenance"))
    since = rfc3339(desk.read(read_gate, "orders").since)
    desk.clock.advance(60)

    again = desk.run(pause(desk.store, "orders", who="bob"))

    assert str(again) == f"endpoint orders is already paused, since {since} by ann: maintenance"
    assert len(audit(desk)) == 1


def test_an_operator_who_pauses_what_a_410_paused_is_in_the_audit(desk):
    gone = Gate("orders", "paused", since=5.0, reason="it answered 410")
    desk.write(change_gate, GateChange(Gate("orders"), gone))

    said = desk.run(pause(desk.store, "orders", who="ann", reason="retired"))

    assert str(said).startswith("endpoint orders is paused: ")
    assert audit(desk) == [("pause", "ann", {"endpoint": "orders", "reason": "retired"}, 0, False)]


@pytest.mark.parametrize("state", ["normal", "paced"])
def test_to_resume_an_endpoint_that_is_not_paused_says_so_and_is_not_in_the_audit(desk, state):
    if state != "normal":
        desk.write(change_gate, GateChange(Gate("orders"), Gate("orders", state, pace=2.0)))

    said = desk.run(resume(desk.store, "orders", who="ann"))

    assert str(said) == f"endpoint orders was not paused: it is {state}"
    assert audit(desk) == []


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (
            Gate("orders", "paced", paced_at=5.0, pace=2.0),
            "its deliveries are sent again, at a pace that grows",
        ),
        (
            Gate("orders", "probing", failing_since=5.0),
            "a probe is due now and, if it succeeds, the other deliveries follow",
        ),
    ],
)
def test_a_resumption_says_in_which_state_the_endpoint_is_again(desk, before, said):
    desk.write(change_gate, GateChange(Gate("orders"), before))
    desk.run(pause(desk.store, "orders", who="ann"))

    resumed = desk.run(resume(desk.store, "orders", who="ann"))

    assert str(resumed) == f"endpoint orders is resumed: {said}"


def test_to_resume_a_failing_endpoint_says_that_a_probe_is_due(desk):
    now = desk.read(shared_now)
    probing = Gate("orders", "probing", failing_since=now, probe_at=now + 30)
    desk.write(change_gate, GateChange(Gate("orders"), probing))

    said = desk.run(resume(desk.store, "orders", who="ann"))

    assert str(said) == "endpoint orders was not paused, but probing: a probe is due now"
    assert desk.read(read_gate, "orders").probe_at <= desk.read(shared_now)


@pytest.mark.parametrize(
    ("parked", "said"),
    [(0, "0 parked deliveries are"), (1, "1 parked delivery is"), (501, "501 parked deliveries are")],
)
def test_parked_deliveries_are_sent_on_request_and_counted(desk, parked, said):
    desk.enqueue(*(f"evt_{number}" for number in range(parked)))
    leases = desk.claim(parked)
    desk.begin(*leases)
    desk.record(*(desk.failed(lease, desk.park_for(3_600)) for lease in leases))

    resumed = desk.run(resume(desk.store, "orders", who="ann", send_parked=True))

    assert str(resumed) == f"endpoint orders was not paused: it is normal; {said} due now"
    assert audit(desk) == [("resume", "ann", {"endpoint": "orders", "now": True}, parked, False)]
    assert len(desk.claim(1_000)) == parked


def test_two_resumptions_at_once_send_each_parked_delivery_once(desk):
    desk.run(pause(desk.store, "orders", who="ann"))
    desk.enqueue(*(f"evt_{number}" for number in range(20)))
    for lease in desk.claim(20):
        desk.fail(lease, desk.park_for(3_600))

    async def both():
        each = [resume(desk.store, "orders", who=who, send_parked=True) for who in ("ann", "bob")]
        return await asyncio.gather(*each)

    done = desk.run(both())

    assert sum(each.made_due for each in done) == 20
    assert sorted(each.before.state for each in done) == ["normal", "paused"]
    assert sum(entry.count for entry in desk.read(read_audit)) == 20
