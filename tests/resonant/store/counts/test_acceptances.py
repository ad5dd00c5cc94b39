"""Acceptances: no one waits for an open transaction, and the sums are the same before, during and after a fold."""

import asyncio

import pytest
from sqlalchemy import text

from resonant.metrics.totals import read_totals
from resonant.routing import new_subscription
from resonant.store import enqueue, schema
from resonant.store.counts import acceptances
from resonant.store.counts.acceptances import Ledger
from resonant.store.queue.leases import due
from resonant.store.shared.subscriptions import add_subscription
from resonant.store.worker import WorkerStore


async def within_an_open_transaction(desk, meanwhile):
    """Run an operation during a producer's open transaction; it must not wait."""
    async with desk.store.transaction() as transaction:
        await transaction.run_sync(enqueue, [desk.make("evt_open")], "orders", now=desk.clock())
        async with asyncio.timeout(10):
            return await meanwhile()


@pytest.mark.parametrize("is_known", [False, True], ids=["new endpoint", "known endpoint"])
def test_an_open_transaction_blocks_no_other_producer(open_desk, postgresql_url, is_known):
    ours, theirs = open_desk(postgresql_url), open_desk(postgresql_url)
    if is_known:
        ours.enqueue("evt_1")
        ours.fold()

    async def store_and_look():
        accepted = await theirs.store.enqueue([theirs.make("evt_2"), theirs.make("evt_3")], "orders")
        return accepted, await theirs.store.status()

    accepted, status = ours.run(within_an_open_transaction(ours, store_and_look))
    assert accepted.accepted == 2
    assert (status.accepted, status.balanced) == (2 + is_known, True)
    assert (ours.status().accepted, ours.status().balanced) == (3 + is_known, True)


def test_many_events_for_several_endpoints_make_few_rows(desk, monkeypatch):
    """Folds and readers add the rows up."""
    monkeypatch.setattr("resonant.store.engine.sql._ROWS_AT_ONCE", 5)
    names = ("audit", "crm", "orders")

    def subscribe(connection):
        for name in names:
            add_subscription(connection, new_subscription(name, {}), who="a test", now=desk.clock())

    desk.write(subscribe)
    desk.enqueue(*(f"evt_{number}" for number in range(10)), endpoint=None)
    assert len(desk.rows(schema.acceptances)) <= 6
    expected = dict.fromkeys(names, Ledger(accepted=10))
    assert desk.read(acceptances.read_ledgers) == expected


def test_an_open_transaction_blocks_no_worker_fold_or_compaction(open_desk, postgresql_url):
    ours, theirs = open_desk(postgresql_url), open_desk(postgresql_url)
    theirs.enqueue("evt_1", "evt_2")
    seen = []

    async def look():
        status = await theirs.store.status()
        totals = await theirs.store.read(read_totals, now=theirs.clock())
        assert status.balanced
        seen.append((status.accepted, totals.accepted))

    async def work():
        await look()
        leases = await theirs.store.claim("orders", owner="w", limit=1)
        await theirs.store.record([theirs.delivered(lease) for lease in leases])
        await look()
        await theirs.store.fold()
        await look()
        theirs.clock.advance(3600)
        await theirs.store.compact()
        await look()

    ours.run(within_an_open_transaction(ours, work))
    assert seen == [(2, {"orders": 2})] * 4
    for _ in range(2):
        assert ours.read(acceptances.read_ledgers) == {"orders": Ledger(accepted=3)}
        assert ours.status().balanced
        ours.fold()
    assert ours.rows(schema.acceptances) == []


def test_producers_of_the_same_id_wait_for_each_other(open_desk, postgresql_url):
    """The second one has to know whether the first one commits."""
    ours, theirs = open_desk(postgresql_url), open_desk(postgresql_url)

    async def store_the_same():
        storing = asyncio.create_task(theirs.store.enqueue([theirs.make("evt_open")], "orders"))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await theirs.store.read(lambda c: c.execute(text(waits)).scalar()):
            await asyncio.sleep(0.01)
        return storing

    async def store_twice():
        return await (await within_an_open_transaction(ours, store_the_same))

    assert ours.run(store_twice()).known == 1


def test_an_endpoint_is_known_before_it_is_folded(desk):
    desk.enqueue("evt_1", endpoint="crm")
    desk.enqueue("evt_2", endpoint="billing")
    for _ in range(2):
        assert list(desk.read(acceptances.read_ledgers)) == ["billing", "crm"]
        assert desk.read(acceptances.read_ledgers, "crm") == {"crm": Ledger(accepted=1)}
        assert [each.endpoint for each in desk.read(due)] == ["billing", "crm"]
        assert [each.endpoint for each in desk.read(due, "crm")] == ["crm"]
        desk.fold()
    desk.deliver(*desk.claim(endpoint="crm"))
    assert [each.endpoint for each in desk.read(due)] == ["billing"]
    assert desk.read(due, "crm") == []


def test_a_fold_takes_more_rows_than_one_batch(desk, monkeypatch):
    monkeypatch.setattr("resonant.store.worker._FOLD_BATCH", 2)
    for number in range(5):
        desk.enqueue(f"evt_{number}")
    desk.fold()
    assert desk.rows(schema.acceptances) == []
    assert desk.status().accepted == 5


def test_without_rows_to_fold_the_store_is_only_read(desk, monkeypatch):
    async def refuse(*_arguments, **_options):
        raise AssertionError("the store was written")

    monkeypatch.setattr(WorkerStore, "write", refuse)
    desk.fold()
