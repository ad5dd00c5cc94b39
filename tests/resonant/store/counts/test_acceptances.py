"""Acceptances: no one waits for an open transaction, and the sums are the same before, during and after a fold."""

import pytest

from resonant.metrics.totals import read_totals
from resonant.store import enqueue, schema
from resonant.store.counts import acceptances
from resonant.store.counts.acceptances import Ledger
from resonant.store.worker import WorkerStore
from support.postgresql import on_postgresql
from support.subscriptions import subscribe


def test_many_events_for_several_endpoints_make_few_rows(desk, monkeypatch):
    """Folds and readers add the rows up."""
    monkeypatch.setattr("resonant.store.engine.sql._ROWS_AT_ONCE", 5)
    names = ("audit", "crm", "orders")
    for name in names:
        subscribe(desk, name)
    desk.enqueue(*(f"evt_{number}" for number in range(10)), endpoint=None)
    assert len(desk.rows(schema.acceptances)) <= 6
    expected = dict.fromkeys(names, Ledger(accepted=10))
    assert desk.read(acceptances.read_ledgers) == expected


@on_postgresql
@pytest.mark.parametrize("is_known", [False, True], ids=["new endpoint", "known endpoint"])
def test_an_open_transaction_blocks_no_producer_worker_fold_or_compaction(desk, is_known):
    store = desk.store
    if is_known:
        desk.enqueue("evt_known")
        desk.fold()
    number = 2 + is_known
    seen = []

    async def look():
        status = await store.status()
        totals = await store.read(read_totals, now=store.clock())
        assert status.balanced
        seen.append((status.accepted, totals.accepted))

    async def work():
        assert (await store.enqueue([desk.make("evt_1"), desk.make("evt_2")], "orders")).accepted == 2
        await look()
        leases = await store.claim("orders", owner="w", limit=1)
        await store.record([desk.delivered(lease) for lease in leases])
        await look()
        await store.fold()
        await look()
        desk.clock.advance(3600)
        await store.compact()
        await look()

    async def work_within_a_transaction():
        async with store.transaction() as transaction:
            await transaction.run_sync(enqueue, [desk.make("evt_open")], "orders", now=desk.clock())
            await work()

    desk.run(work_within_a_transaction())
    assert seen == [(number, {"orders": number})] * 4
    for _ in range(2):
        assert desk.read(acceptances.read_ledgers) == {"orders": Ledger(accepted=number + 1)}
        assert desk.status().balanced
        desk.fold()
    assert desk.rows(schema.acceptances) == []


def test_a_fold_takes_more_rows_than_one_batch_and_without_any_the_store_is_only_read(desk, monkeypatch):
    async def refuse(*_arguments, **_options):
        raise AssertionError("the store was written")

    monkeypatch.setattr("resonant.store.worker._FOLD_BATCH", 2)
    for number in range(5):
        desk.enqueue(f"evt_{number}")
    desk.fold()
    assert desk.rows(schema.acceptances) == []
    assert desk.status().accepted == 5
    monkeypatch.setattr(WorkerStore, "write", refuse)
    desk.fold()
