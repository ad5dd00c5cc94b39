"""The one delivery that probes an endpoint that is down."""

from dataclasses import replace

import pytest
from sqlalchemy import update

from resonant.dead_letters.cancel import cancel
from resonant.events import Event, rfc3339
from resonant.store import schema
from resonant.store.queue.leases import look
from resonant.store.queue.probes import claim_probe
from resonant.store.shared.gates import FailingType, Gate, GateChange, Probe, change_gate, read_gate
from resonant.store.views.selection import Selection
from support.postgresql import committing_before_the_lock, on_postgresql


def probing(desk, **fields):
    """Make the gate of `orders` probe, and return it."""
    change = GateChange(Gate("orders"), Gate("orders", state="probing", failing_since=1.0, **fields))
    assert desk.write(change_gate, change)
    return change.result


def due_probe(gate, at, failed_at=None):
    """Return the probe that is due of an endpoint that is down; by type, when it failed last."""
    return Probe(gate, {None: replace(gate, probe_at=at + 5)}, failed_at or {}, at)


def reserve(desk, probe):
    """Reserve a probe; return the id of its event and the gate; None if nothing was reserved."""
    found = desk.run(desk.store.claim_leases(claim_probe, probe, owner="worker"))
    return found and (found[0].event.id, found[1])


def probe(desk, gate, failed_at=None):
    return reserve(desk, due_probe(gate, desk.clock(), failed_at))


def test_a_probe_takes_another_event_type_than_the_last_one_and_notes_its_own(desk):
    desk.enqueue(desk.make("evt_1", event_type="a"))
    desk.clock.advance(1)
    desk.enqueue(desk.make("evt_2", event_type="b"))

    event_id, gate = probe(desk, probing(desk, probed_type="a"))

    assert (event_id, gate.probed_type) == ("evt_2", "b")
    assert gate == desk.read(read_gate, "orders")
    assert probe(desk, gate)[0] == "evt_1", "the only one left"


def test_a_probe_takes_the_delivery_with_the_fewest_attempts(desk):
    desk.enqueue("evt_1")
    desk.fail(desk.claim_one(), desk.park_for(0))
    desk.enqueue("evt_2")
    assert probe(desk, probing(desk))[0] == "evt_2"


def test_no_probe_is_reserved_while_nothing_is_due_that_is_not_final(desk):
    desk.enqueue("evt_1", "evt_2", apart=1)
    desk.fail(desk.claim_one(), desk.park_for(100))
    is_due = schema.deliveries.c.id == desk.row("evt_2")["id"]
    final = {"status": "dead_letter", "finished_at": desk.clock()}
    desk.execute(update(schema.deliveries).where(is_due).values(final))
    gate = probing(desk)

    assert probe(desk, gate) is None
    assert desk.row("evt_2")["available_at"] is None
    assert desk.read(read_gate, "orders") == gate


def test_only_one_of_two_processes_probes_and_leases_its_delivery_like_any(desk):
    desk.enqueue("evt_1", "evt_2", apart=1)
    gate = probing(desk)

    assert probe(desk, gate)[0] == "evt_1"
    assert probe(desk, gate) is None
    assert desk.delivery("evt_1").leased_by == "worker"
    assert desk.delivery("evt_1").lease_until == desk.clock() + desk.store.lease_seconds
    assert [lease.event.id for lease in desk.claim()] == ["evt_2"]


def test_a_look_reads_due_deliveries_and_gates_together(desk):
    desk.enqueue("evt_1")
    gate = probing(desk)

    due, gates = desk.read(look, now=desk.clock())

    assert [each.endpoint for each in due] == ["orders"]
    assert gates == {"orders": gate}
    assert desk.run(desk.store.look("orders")) == (due, gates)


class TestTheTypeOfAProbe:
    @pytest.fixture
    def due(self, desk):
        """A delivery of each type, due in this order."""
        for name in "abcd":
            desk.enqueue(desk.make(f"evt_{name}", event_type=name))
            desk.clock.advance(1)

    def probe_in_turn(self, desk, gate, failed_at):
        """Probe until nothing is left; return the types in order."""
        probed = ""
        while found := probe(desk, gate, failed_at):
            probed, gate = probed + found[1].probed_type, found[1]
        return probed

    @pytest.mark.usefixtures("due")
    def test_one_that_worked_comes_first_and_then_the_one_that_failed_earliest(self, desk):
        assert self.probe_in_turn(desk, probing(desk), {"a": 30.0, "b": 10.0, "d": 20.0}) == "cbda"

    @pytest.mark.usefixtures("due")
    def test_one_that_is_held_comes_last(self, desk):
        held = (FailingType("a", 5.0, "http 503", 6.0, 7.0), FailingType("c", 5.0, "http 503", 6.0, 7.0))
        failed_at = {"a": 20.0, "b": 90.0, "c": 10.0, "d": 80.0}
        assert self.probe_in_turn(desk, probing(desk, failing=held), failed_at) == "dbca"

    @pytest.mark.usefixtures("due")
    def test_one_without_a_free_delivery_is_skipped(self, desk):
        [lease, *_] = desk.claim(1)
        assert lease.event.type == "a"
        assert probe(desk, probing(desk), {"b": 2.0, "c": 1.0, "d": 3.0})[1].probed_type == "c"

    def test_the_fewest_attempts_are_searched_for_at_both_ends_of_its_backlog(self, desk):
        desk.enqueue(*(f"evt_{n}" for n in range(120)))
        for lease in desk.claim(120):
            desk.fail(lease, desk.park_for(lease.delivery_id))
        desk.clock.advance(200)
        rows, gate = desk.rows(schema.deliveries), probing(desk)
        for number, probed in ((60, 0), (110, 110), (40, 40)):
            row = rows[number]
            changing = update(schema.deliveries).where(schema.deliveries.c.id == row["id"])
            desk.execute(changing.values(attempts=0))
            event_id, gate = probe(desk, gate)
            assert event_id == rows[probed]["event_id"], f"of 120, number {number} has fewer attempts"


class TestAProbeOfAFailingType:
    @pytest.fixture
    def gate(self, desk):
        """The gate of `orders`, which works except for the types `a` and `b`."""
        failing = (FailingType("a", 1.0, "http 503", 6.0, 7.0), FailingType("b", 1.0, "http 503", 6.0, 5.0))
        change = GateChange(Gate("orders"), Gate("orders", failing=failing))
        assert desk.write(change_gate, change)
        return change.result

    def probe(self, desk, gate, *types):
        """Reserve a probe of one of these types; return the id of its event and the gate; None if nothing was reserved."""
        tried_at = {each.event_type: each.tried_at for each in gate.failing}
        reserved = {
            name: gate.with_failing(
                replace(each, probe_at=90.0, tried_at=80.0) if each.event_type == name else each
                for each in gate.failing
            )
            for name in types
        }
        return reserve(desk, Probe(gate, reserved, tried_at, desk.clock()))

    def test_it_takes_only_a_delivery_of_that_type_and_reserves_its_next_probe(self, desk, gate):
        desk.enqueue(desk.make("evt_c", event_type="c"), desk.make("evt_b", event_type="b"))
        desk.clock.advance(1)
        desk.enqueue(desk.make("evt_a", event_type="a"))

        event_id, after = self.probe(desk, gate, "a")

        assert event_id == "evt_a"
        assert after == desk.read(read_gate, "orders")
        assert [(each.event_type, each.probe_at) for each in after.failing] == [("b", 6.0), ("a", 90.0)]
        assert (after.state, after.probed_type) == ("normal", None)
        assert {lease.event.id for lease in desk.claim()} == {"evt_b", "evt_c"}

    def test_of_several_the_one_that_was_tried_earliest_is_probed(self, desk, gate):
        desk.enqueue(desk.make("evt_a", event_type="a"), desk.make("evt_b", event_type="b"))
        assert self.probe(desk, gate, "a", "b")[0] == "evt_b"

    def test_nothing_is_reserved_while_nothing_of_that_type_is_due(self, desk, gate):
        desk.enqueue(desk.make("evt_c", event_type="c"), desk.make("evt_a", event_type="a"))
        leases = {lease.event.type: lease for lease in desk.claim()}
        desk.fail(leases["a"], desk.park_for(100))
        desk.run(desk.store.release([leases["c"]]))

        assert self.probe(desk, gate, "a", "b") is None
        assert desk.read(read_gate, "orders") == gate
        assert desk.delivery("evt_c").leased_by is None

    def test_expired_events_are_given_up_instead_of_probed(self, desk, gate):
        late = {"expirytime": rfc3339(desk.clock() + 10)}
        desk.enqueue(*(Event(id=f"evt_{n}", type="a", source="/shop", extensions=late) for n in range(3)))
        desk.clock.advance(20)
        assert self.probe(desk, gate, "a") is None
        assert {row["status"] for row in desk.rows(schema.deliveries)} == {"dead_letter"}
        assert desk.read(read_gate, "orders") == gate


@on_postgresql
class TestWhileOthersWrite:
    """Another transaction commits after the probe's statement has read its candidates, and before it locks one."""

    @pytest.fixture
    def probe_during(self, desk, postgresql):
        """Probe while another operation commits; return the id of the probed event."""

        async def probe_during(other):
            gate = await desk.store.read(read_gate, "orders")
            probe = due_probe(gate, desk.clock())
            probing = desk.store.claim_leases(claim_probe, probe, owner="worker")
            order = "resonant_deliveries.attempts"
            found = await committing_before_the_lock(postgresql, probing, other, order=order)
            return found and found[0].event.id

        return lambda other: desk.run(probe_during(other))

    def test_a_probe_takes_neither_a_cancelled_nor_a_claimed_delivery(self, desk, probe_during):
        desk.enqueue("evt_1")
        probing(desk)
        assert probe_during(cancel(desk.store, Selection(), who="an operator")) is None
        row = desk.row("evt_1")
        assert (row["status"], row["available_at"], row["lease_owner"]) == ("dead_letter", None, None)

        desk.enqueue("evt_2", "evt_3", apart=1)
        assert probe_during(desk.store.claim("orders", owner="other", limit=1)) == "evt_3"
        assert desk.row("evt_2")["lease_owner"] == "other"
