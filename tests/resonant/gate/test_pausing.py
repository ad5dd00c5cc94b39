"""Pausing and resuming an endpoint, and making its parked deliveries due; each change is in the audit."""

import asyncio
from dataclasses import replace

import pytest

from resonant.delivery.retry import Park
from resonant.errors import ResonantError
from resonant.events import rfc3339
from resonant.gate.pausing import make_parked_due, pause, resume
from resonant.store.audit import read_audit
from resonant.store.shared.gates import FailingType, Gate, GateChange, change_gate, read_gate, read_gates
from support.postgresql import committing_before_the_lock, on_postgresql

DAY = 86_400.0
NO_LATER_ATTEMPT = 1_000_000
NORMAL = Gate("orders")
PACED = Gate("orders", "paced", since=5.0, pilot="p1", pilot_until=9.0, pace=4.0)
PROBING = Gate("orders", "probing", since=5.0, failing_since=5.0, probe_at=7.0, probed_type="a", pace=4.0)
GONE = Gate("orders", "paused", since=5.0, reason="it answered 410")
PAUSED = "endpoint orders is paused: its deliveries wait until `resonant endpoint resume orders`"
SENT_AGAIN = "its deliveries are sent again"
PROBE_IS_DUE = "a probe is due now and, if it succeeds, the other deliveries follow"


class Operator:
    """Pauses and resumes the endpoint `orders`."""

    def __init__(self, desk):
        self.desk = desk

    def put(self, gate):
        """Let a process change the gate."""
        if gate != NORMAL:
            assert self.desk.write(change_gate, GateChange(self.gate, gate))

    def pause(self, reason=None, *, who="ann"):
        return self.desk.run(pause(self.desk.store, "orders", who=who, reason=reason))

    def resume(self, *, who="ann", send_parked=False):
        return self.desk.run(resume(self.desk.store, "orders", who=who, send_parked=send_parked))

    @property
    def gate(self):
        return self.desk.read(read_gate, "orders")

    @property
    def audit(self):
        entries = self.desk.read(read_audit)
        assert all(each.ended_at for each in entries)
        return [(each.action, each.who, each.selection, each.count) for each in entries]


@pytest.fixture
def operator(desk):
    return Operator(desk)


@pytest.fixture
def park(desk):
    def park(*ids, endpoint="orders", decision=None):
        desk.enqueue(*ids, endpoint=endpoint)
        leases = desk.claim(len(ids), endpoint=endpoint)
        desk.begin(*leases)
        desk.record(*(desk.failed(lease, decision or desk.park_for(DAY)) for lease in leases))

    return park


@pytest.fixture
def fail_soon(desk):
    """A coroutine: a parked delivery, due in 2 s at the latest, fails again, and is parked for two days."""

    async def fail():
        desk.clock.advance(2.0)
        [lease] = await desk.store.claim("orders", owner="worker", limit=1)
        await desk.store.begin([lease])
        await desk.store.record([desk.failed(lease, desk.park_for(2 * DAY))])

    failing = fail()
    yield failing
    failing.close()


def test_a_reason_with_more_than_500_characters_is_refused(operator):
    with pytest.raises(ResonantError, match="the reason has 501 characters: write at most 500"):
        operator.pause("x" * 501)
    assert operator.gate.state == "normal"
    operator.pause("\n" + "x" * 500)
    assert len(operator.gate.reason) == 500


@pytest.mark.parametrize(
    ("before", "kept", "after", "begins", "text"),
    [
        (NORMAL, {}, {}, (), SENT_AGAIN),
        (
            replace(PACED, not_before=60.0),
            {"not_before": 60.0, "pace": 4.0},
            {"state": "paced", "pace": 4.0},
            (),
            f"{SENT_AGAIN}, at a pace that grows",
        ),
        (PROBING, {"failing_since": 5.0}, {"state": "probing"}, ("failing_since", "probe_at"), PROBE_IS_DUE),
        (GONE, {"failing_since": 5.0}, {"state": "probing"}, ("failing_since", "probe_at"), PROBE_IS_DUE),
    ],
    ids=["normal", "paced", "probing", "gone"],
)
def test_a_paused_endpoint_is_resumed_as_it_was_and_probed_at_once_if_it_failed(
    operator, before, kept, after, begins, text
):
    operator.put(before)
    paused = operator.pause("maintenance\nuntil 18:00")

    since = paused.after.since
    epoch = operator.gate.epoch
    expected = Gate("orders", "paused", epoch, since, "maintenance until 18:00", paused_by="ann", **kept)
    assert operator.gate == expected
    assert paused.text == PAUSED

    resumed = operator.resume(who="bob")

    now = resumed.after.since
    expected = Gate("orders", since=now, reason="it was resumed", epoch=operator.gate.epoch)
    assert expected.epoch > epoch
    assert operator.gate == replace(expected, **after, **dict.fromkeys(begins, now))
    assert abs(now - operator.desk.read(read_gates).at) < 60
    assert resumed.text == f"endpoint orders is resumed: {text}"
    assert operator.audit == [
        ("resume", "bob", {"endpoint": "orders", "now": False}, 0),
        ("pause", "ann", {"endpoint": "orders", "reason": "maintenance until 18:00"}, 0),
    ]


@pytest.mark.parametrize("before", [NORMAL, PACED, PROBING, GONE], ids=["normal", "paced", "probing", "gone"])
def test_a_paused_endpoint_keeps_its_failing_types_and_their_probes_are_due_when_it_is_resumed(
    operator, before
):
    now = operator.desk.read(read_gates).at
    failing, forgotten = (
        FailingType(name, 5.0, "http 503", 1e12, now - ago) for name, ago in (("a", 60), ("b", 4000))
    )
    is_probed = before in (NORMAL, PACED)
    kept = (failing,) if is_probed else (forgotten, failing)
    operator.put(replace(before, failing=(forgotten, failing)))
    operator.pause()
    assert operator.gate.failing == kept
    operator.resume()
    resumed_at = operator.gate.since
    assert set(operator.gate.failing) == {
        replace(each, probe_at=resumed_at, tried_at=max(each.tried_at, resumed_at)) for each in kept
    }


def test_the_probes_of_failing_types_are_due_if_an_endpoint_that_is_not_paused_is_resumed(operator):
    now = operator.desk.read(read_gates).at
    operator.put(replace(NORMAL, failing=(FailingType("a", 5.0, "http 503", 1e12, now),)))
    resumed = operator.resume()
    assert resumed.text == (
        "endpoint orders was not paused: it is normal, and probes of its failing types are due now"
    )
    [found] = operator.gate.failing
    assert abs(found.probe_at - operator.desk.read(read_gates).at) < 60


def test_a_second_pause_changes_nothing_and_names_the_first(operator):
    first = operator.pause("maintenance")

    second = operator.pause("holidays", who="bob")

    assert second.before == second.after == operator.gate
    since = rfc3339(first.after.since)
    assert second.text == f"endpoint orders is already paused, since {since} by ann: maintenance"
    assert len(operator.audit) == 1


def test_an_endpoint_that_answered_410_is_probed_when_it_is_resumed(operator):
    operator.put(GONE)
    assert operator.gate.is_gone
    operator.resume()
    assert (operator.gate.state, operator.gate.probe_at) == ("probing", operator.gate.since)


def test_the_next_probe_of_a_failing_endpoint_is_due_when_it_is_resumed(operator):
    later = operator.desk.read(read_gates).at + 30
    operator.put(replace(PROBING, probe_at=later, not_before=later))

    resumed = operator.resume()

    now = resumed.after.since
    assert operator.gate == replace(PROBING, since=now, probe_at=now, epoch=operator.gate.epoch)
    assert now < later
    assert resumed.text == "endpoint orders was not paused, but probing: a probe is due now"


@pytest.mark.parametrize("gate", [NORMAL, PACED, PROBING], ids=lambda gate: gate.state)
def test_resuming_an_endpoint_that_is_not_paused_changes_nothing(operator, gate):
    operator.put(gate)
    before = operator.gate

    change = operator.resume()

    assert change.before == change.after == before == operator.gate
    assert change.text.startswith("endpoint orders was not paused")
    assert gate.state == "probing" or change.text == f"endpoint orders was not paused: it is {gate.state}"
    assert operator.audit == []


def test_a_pause_wins_over_processes_that_change_the_gate_all_the_time(operator, desk):
    operator.put(PACED)

    async def renew():
        for second in range(20):
            gate = await desk.store.read(read_gate, "orders")
            renewed = replace(gate, pilot_until=10.0 + second)
            if gate.state == "paused" or not await desk.store.write(change_gate, GateChange(gate, renewed)):
                return

    async def both():
        await asyncio.gather(renew(), pause(desk.store, "orders", who="ann"), renew())

    desk.run(both())
    assert operator.gate.state == "paused"


def test_only_one_of_two_concurrent_pauses_takes_effect(operator, desk):
    async def both():
        return await asyncio.gather(*(pause(desk.store, "orders", who=who) for who in ("ann", "bob")))

    changes = desk.run(both())

    assert sorted(change.before.state for change in changes) == ["normal", "paused"]
    assert len(operator.audit) == 1


def test_two_resumptions_at_once_send_each_parked_delivery_once(operator, desk, park):
    operator.pause()
    park(*(f"evt_{number}" for number in range(20)))

    async def both():
        each = (resume(desk.store, "orders", who=who, send_parked=True) for who in ("ann", "bob"))
        return await asyncio.gather(*each)

    done = desk.run(both())

    assert sum(each.made_due for each in done) == 20
    assert sorted(each.before.state for each in done) == ["normal", "paused"]
    assert sum(count for *_, count in operator.audit) == 20


@pytest.mark.parametrize(
    ("parked", "text"),
    [(0, "0 parked deliveries are"), (1, "1 parked delivery is"), (5, "5 parked deliveries are")],
)
def test_parked_deliveries_are_sent_on_request_and_counted(operator, desk, park, parked, text, monkeypatch):
    monkeypatch.setattr("resonant.gate.pausing._BATCH", 2)
    park(*(f"evt_{number}" for number in range(parked)))

    resumed = operator.resume(send_parked=True)

    assert resumed.text == f"endpoint orders was not paused: it is normal; {text} due now"
    assert operator.audit == [("resume", "ann", {"endpoint": "orders", "now": True}, parked)]
    assert len(desk.claim(1_000)) == parked


def test_deliveries_that_are_parked_again_meanwhile_keep_their_waits(desk, park, monkeypatch):
    monkeypatch.setattr("resonant.gate.pausing._BATCH", 1)
    park(*(f"evt_{number}" for number in range(10)))

    async def fail_again():
        while not resuming.done() and len(failed) < 50:
            for lease in await desk.store.claim("orders", owner="worker", limit=100):
                failed.append(lease.event.id)
                await desk.store.begin([lease])
                await desk.store.record([desk.failed(lease, desk.park_for(2 * DAY))])
            await asyncio.sleep(0)

    async def both():
        nonlocal resuming
        resuming = asyncio.ensure_future(resume(desk.store, "orders", who="ann", send_parked=True))
        await fail_again()
        return await resuming

    failed, resuming = [], None
    assert desk.run(both()).made_due == 10
    assert len(failed) == len(set(failed)) > 0


@on_postgresql
def test_a_delivery_that_fails_while_parked_ones_are_locked_keeps_its_wait(desk, park, fail_soon, postgresql):
    park("evt_1")
    desk.clock.advance(DAY - 1.0)
    resuming = resume(desk.store, "orders", who="ann", send_parked=True)
    order = "resonant_deliveries.available_at"
    resumed = desk.run(committing_before_the_lock(postgresql, resuming, fail_soon, order=order))

    assert resumed.made_due == 0
    assert desk.row("evt_1")["available_at"] == desk.clock() + 2 * DAY


def test_a_delivery_that_fails_just_after_the_gate_has_changed_keeps_its_wait(
    desk, park, fail_soon, monkeypatch
):
    park("evt_1", decision=desk.park_for(1.0))
    written, write = [], desk.store.write

    async def write_and_fail(operation, *args, **options):
        result = await write(operation, *args, **options)
        written.append(operation)
        if len(written) == 2:  # the operation is in the audit, and the gate has changed
            await fail_soon
        return result

    monkeypatch.setattr(desk.store, "write", write_and_fail)
    resumed = desk.run(resume(desk.store, "orders", who="ann", send_parked=True))

    assert resumed.made_due == 0
    assert desk.row("evt_1")["available_at"] == desk.clock() + 2 * DAY


def test_only_parked_deliveries_of_the_endpoint_become_due(desk, park):
    park("evt_1", "evt_2")
    park("evt_other", endpoint="billing")
    desk.enqueue("evt_due", "evt_leased")
    leased = desk.claim(1)
    before = desk.row(leased[0].event.id)

    made = desk.write(make_parked_due, "orders", limit=10, now=desk.clock(), newest=NO_LATER_ATTEMPT)
    assert made is not None
    assert made.made_due == 2

    assert desk.row(leased[0].event.id) == before
    assert {lease.event.id for lease in desk.claim(10, owner="other")} | {leased[0].event.id} == {
        *("evt_1", "evt_2", "evt_due", "evt_leased")
    }
    assert desk.claim(10, endpoint="billing") == []


def test_a_new_delivery_made_due_after_the_clock_was_set_back_has_no_backoff(desk):
    desk.enqueue("evt_1")

    desk.write(make_parked_due, "orders", limit=10, now=desk.clock() - 3_600.0, newest=NO_LATER_ATTEMPT)

    assert desk.row("evt_1")["backoff_until"] is None


@pytest.mark.parametrize("extended", [False, True])
def test_a_delivery_made_due_keeps_the_end_of_its_own_backoff(desk, park, extended):
    ends_at = desk.clock() + DAY
    park("evt_1", decision=Park(60.0, desk.clock() + 60, backoff_until=ends_at) if extended else None)

    for _ in range(2):
        desk.write(make_parked_due, "orders", limit=10, now=desk.clock(), newest=NO_LATER_ATTEMPT)

    row = desk.row("evt_1")
    assert row["next_attempt_at"] == row["available_at"] == desk.clock()
    assert row["backoff_until"] == ends_at
