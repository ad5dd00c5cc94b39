"""Claims of a run, and the locks that may delay them."""

import asyncio

from sqlalchemy import select

from resonant.store import schema
from support.dispatching import dispatching, emit, enqueue, opened, succeed


def lock_ledger(connection):
    connection.execute(select(schema.ledgers).with_for_update()).all()


async def test_a_run_sends_while_another_transaction_holds_the_ledger(postgresql_url):
    async with opened(postgresql_url) as store:
        await enqueue(store)
        await store.fold()
        await enqueue(store)
        async with (
            asyncio.timeout(10),
            store.transaction() as transaction,
            dispatching(store, succeed) as dispatcher,
        ):
            await transaction.run_sync(lock_ledger)
            counts = await emit(dispatcher)
        status = await store.status()
    assert counts.delivered == 2
    assert (status.accepted, status.balanced) == (2, True)
