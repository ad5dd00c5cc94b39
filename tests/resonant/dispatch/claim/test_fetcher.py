"""Claims of a run, and the locks that may delay them."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select

from resonant.dispatch.limits import Limits
from resonant.events import Event
from resonant.store import schema
from resonant.store.shared.gates import FailingType, Gate, GateChange, change_gate, read_gate
from support.dispatching import START, dispatching, draining, emit, enqueue, opened, succeed
from support.simulated_time import clock_from
from support.waiting import until


def lock_ledger(connection):
    connection.execute(select(schema.ledgers).with_for_update()).all()


async def test_a_run_sends_while_another_transaction_holds_the_ledger(postgresql_url):
    async with opened(postgresql_url) as store:
        await enqueue(store)
        await store.fold()
        await enqueue(store)
        async with (
            asyncio.timeout(60),
            store.transaction() as transaction,
            dispatching(store, succeed) as dispatcher,
        ):
            await transaction.run_sync(lock_ledger)
            counts = await emit(dispatcher)
        status = await store.status()
    assert counts.delivered == 2
    assert (status.accepted, status.balanced) == (2, True)


@pytest.mark.parametrize(
    ("took", "state", "polls"),
    [(0.0, "normal", 240), (0.05, "normal", 57), (1.0, "normal", 20), (0.05, "probing", 200)],
    ids=["quick", "slow", "very slow", "slow, with a probe"],
)
async def test_polls_of_an_idle_run_take_a_twentieth_of_the_time_unless_a_gate_needs_them(
    tmp_path, took, state, polls
):
    async def look(*args, **options):
        looks.append(1)
        await asyncio.sleep(took)
        return await read(*args, **options)

    clock = clock_from(START)
    async with opened(f"sqlite:///{tmp_path}/r.db", clock=clock) as store:
        await enqueue(store)
        gate = Gate("orders")
        changed = replace(gate, state=state, since=START, probe_at=START + 110)
        assert await store.write(change_gate, GateChange(gate, changed))
        async with dispatching(store, succeed, limits=Limits(successors=1)) as dispatcher:
            run = asyncio.create_task(emit(dispatcher))
            await asyncio.sleep(5)
            read, store.look, looks = store.look, look, []
            await asyncio.sleep(60)
            run.cancel()
            await asyncio.wait([run])
            assert dispatcher.counts.delivered == (state == "normal")
    assert polls * 0.9 <= len(looks) <= polls * 1.2


def noting(call, calls):
    """Return an async function that calls another one, after it has added to a list."""

    async def note(*args, **options):
        calls.append(args)
        return await call(*args, **options)

    return note


async def hold_type(store):
    """Let the type of the events of ``enqueue`` fail at `orders`; its next probe is due in 100 s."""
    now, gate = store.clock(), Gate("orders")
    failing = FailingType("order.paid", now - 60, "http 503", now + 100, now)
    assert await store.write(change_gate, GateChange(gate, replace(gate, failing=(failing,))))


def count_writes(store):
    """Return a list that gets each write transaction of a store."""
    writes, write = [], store.database.write

    async def count(operation, **options):
        writes.append(operation)
        return await write(operation, **options)

    store.database.write = count
    return writes


async def test_an_idle_run_writes_no_more_if_held_deliveries_of_a_failing_type_are_due(tmp_path):
    async def writes_of_a_minute(name, *, due):
        async with opened(f"sqlite:///{tmp_path}/{name}.db", clock=clock_from(START)) as store:
            if due:
                await enqueue(store, due)
            await hold_type(store)
            async with draining(store, succeed, limits=Limits(successors=1)):
                await asyncio.sleep(5)
                writes = count_writes(store)
                await asyncio.sleep(60)
                return len(writes)

    assert await writes_of_a_minute("held", due=50) <= await writes_of_a_minute("empty", due=0) + 2


async def test_held_deliveries_of_a_failing_type_are_not_claimed_while_others_are_sent_at_once(store_url):
    async with opened(store_url) as store:
        await enqueue(store, 20)
        await hold_type(store)
        sent, looks, claims = [], [], []

        async def send(event):
            sent.append(event.type)

        store.look, store.claim_each = noting(store.look, looks), noting(store.claim_each, claims)
        async with draining(store, send, limits=Limits(successors=1)):
            await until(lambda: len(looks) > 2)  # it knows the gate
            claims.clear()
            await until(lambda: len(looks) > 7)
            assert not claims
            await store.enqueue(Event(type="order.shipped", source="/shop", data=1), "orders")
            await until(lambda: sent == ["order.shipped"])
            gate = await store.read(read_gate, "orders")
            due = replace(gate, failing=(replace(gate.failing[0], probe_at=store.clock()),))
            assert await store.write(change_gate, GateChange(gate, due))
            await until(lambda: len(sent) == 21)
