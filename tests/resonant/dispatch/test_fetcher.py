"""Claims of a run, and the locks that may delay them."""

from __future__ import annotations

import asyncio
import random
import time

from sqlalchemy import select

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.dispatch.dispatcher import Dispatcher
from resonant.events import Event
from resonant.sinks.base import CallableSink
from resonant.store import WorkerStore, schema


def lock_ledger(connection):
    connection.execute(select(schema.endpoints).with_for_update()).all()


async def test_a_run_sends_while_another_transaction_holds_the_ledger(postgresql_url):
    async def close():
        return None

    async def send(event):
        return None

    async def open_destination(name):
        return Destination(name, CallableSink(send), describe=str, close=close)

    store = await WorkerStore.open(postgresql_url)
    await store.enqueue([Event(type="t", source="/s", data=1)], "orders")
    await store.fold()
    await store.enqueue([Event(type="t", source="/s", data=2)], "orders")
    attempt_runner = AttemptRunner(clock=time.time, rng=random.Random(1))
    async with (
        asyncio.timeout(10),
        store.transaction() as transaction,
        Dispatcher(store, attempt_runner, open_destination, owner="run-1") as dispatcher,
    ):
        await transaction.run_sync(lock_ledger)

        async def emit_one(lease):
            await dispatcher.attempt(lease.key)

        summary = await dispatcher.run(emit_one)
    status = await store.status()
    await store.close()
    assert summary.delivered == 2
    assert (status.accepted, status.balanced) == (2, True)
