"""Claims of a run, and the locks that may delay them."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select

from resonant.dispatch.limits import Limits
from resonant.store import schema
from resonant.store.shared.gates import Gate, GateChange, change_gate
from support.dispatching import START, dispatching, emit, enqueue, opened, succeed
from support.simulated_time import clock_from


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
