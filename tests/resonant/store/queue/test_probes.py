"""The one delivery that probes an endpoint that is down."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import update

from resonant.dead_letters.cancel import cancel
from resonant.store import schema
from resonant.store.queue.leases import look
from resonant.store.queue.probes import claim_probe
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate
from resonant.store.views.selection import Selection
from support.postgresql import on_postgresql
from support.sqlite import listening
from support.waiting import PATIENCE_SECONDS, until


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

    assert (event_id, gate.probed_type) == ("evt_2", "b")
    assert gate == desk.read(read_gate, "orders")
    assert probe(desk, gate)[0] == "evt_1", "the only one left"


def test_a_probe_takes_the_delivery_with_the_fewest_attempts(desk):
    desk.enqueue("evt_1")
    desk.fail(desk.claim_one(), desk.park_for(0))
    desk.enqueue("evt_2")
    assert probe(desk, probing(desk))[0] == "evt_2"


def test_no_probe_is_reserved_while_nothing_is_due_that_is_not_final(desk):
    desk.enqueue("evt_1", "evt_2")
    desk.fail(desk.claim_one(), desk.park_for(100))
    is_due = schema.deliveries.c.id == desk.row("evt_2")["id"]
    final = {"status": "dead_letter", "finished_at": desk.clock()}
    desk.execute(update(schema.deliveries).where(is_due).values(final))
    gate = probing(desk)

    assert probe(desk, gate) is None
    assert desk.row("evt_2")["available_at"] is None
    assert desk.read(read_gate, "orders") == gate


def test_only_one_of_two_processes_probes_and_leases_its_delivery_like_any(desk):
    desk.enqueue("evt_1", "evt_2")
    gate = probing(desk)

    assert probe(desk, gate)[0] == "evt_1"
    assert probe(desk, gate) is None
    assert desk.delivery("evt_1").leased_by == "worker"
    assert desk.delivery("evt_1").lease_until == desk.clock() + desk.store.lease_seconds
    assert [lease.event.id for lease in desk.claim()] == ["evt_2"]


def test_a_look_reads_due_deliveries_and_gates_together(desk):
    desk.enqueue("evt_1")
    gate = probing(desk)

    due, gates = desk.read(look)

    assert [each.endpoint for each in due] == ["orders"]
    assert gates == {"orders": gate}
    assert desk.run(desk.store.look("orders")) == (due, gates)


@on_postgresql
class TestWhileOthersWrite:
    """Another transaction commits after the probe's statement has read its candidates, and before it locks one."""

    @pytest.fixture
    def probe_during(self, desk, postgresql):
        """Probe while another operation commits; return the id of the probed event."""
        lock = 4711

        def wait_for_lock(_connection, _cursor, statement, parameters, _context, _many):
            # The server computes the order of the rows before it locks the first.
            order = "ORDER BY resonant_deliveries.event_type"
            waiting = f"ORDER BY pg_advisory_xact_lock_shared({lock}) IS NULL, resonant_deliveries.event_type"
            return statement.replace(order, waiting), parameters

        async def probe_during(other):
            gate = await desk.store.read(read_gate, "orders")
            change = GateChange(gate, replace(gate, probe_at=desk.clock() + 5))
            async with postgresql.connected("store") as connection, asyncio.timeout(PATIENCE_SECONDS):
                await connection.execute(f"SELECT pg_advisory_lock({lock})")
                probing = asyncio.create_task(desk.store.claim_leases(claim_probe, change, owner="worker"))
                await until(lambda: connection.fetch("SELECT FROM pg_locks WHERE NOT granted"))
                await other
                await connection.execute(f"SELECT pg_advisory_unlock({lock})")
                found = await probing
            return found and found[0].event.id

        with listening("before_cursor_execute", wait_for_lock, retval=True):
            yield lambda other: desk.run(probe_during(other))

    def test_a_probe_takes_neither_a_cancelled_nor_a_claimed_delivery(self, desk, probe_during):
        desk.enqueue("evt_1")
        probing(desk)
        assert probe_during(cancel(desk.store, Selection(), who="an operator")) is None
        row = desk.row("evt_1")
        assert (row["status"], row["available_at"], row["lease_owner"]) == ("dead_letter", None, None)

        desk.enqueue("evt_2", "evt_3")
        assert probe_during(desk.store.claim("orders", owner="other", limit=1)) == "evt_3"
        assert desk.row("evt_2")["lease_owner"] == "other"
