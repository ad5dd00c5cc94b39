"""Acceptances: no one waits for an open transaction, and the sums are the same before, during and after a fold."""

from __future__ import annotations

import asyncio
import math

import pytest
from sqlalchemy import text

from resonant.metrics.totals import read_totals
from resonant.store import enqueue, schema
from resonant.store.counter_compaction import compact
from resonant.store.counts import acceptances
from resonant.store.store import Store


def counters(desk):
    """Return the counter of accepted events by endpoint, as the metrics show it."""
    totals = desk.read(read_totals, now=desk.clock())
    return {each.endpoint: each.number for each in totals.counted if each.measure == "accepted"}


async def within_an_open_transaction(desk, meanwhile, *, event_id="evt_open", endpoint="orders"):
    """Run an operation during a producer's open transaction; it must not wait."""
    async with desk.store.transaction() as transaction:
        await transaction.run_sync(enqueue, [desk.make(event_id)], endpoint, now=desk.clock())
        async with asyncio.timeout(10):
            return await meanwhile()


@pytest.mark.parametrize("is_known", [False, True], ids=["new endpoint", "known endpoint"])
def test_a_producers_open_transaction_blocks_no_other_producer(open_desk, postgresql_url, is_known):
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


def test_an_open_transaction_blocks_no_worker_fold_or_compaction(open_desk, postgresql_url):
    ours, theirs = open_desk(postgresql_url), open_desk(postgresql_url)
    theirs.enqueue("evt_1", "evt_2")
    seen = []

    async def look():
        status = await theirs.store.status()
        totals = await theirs.store.read(read_totals, now=theirs.clock())
        [counted] = [each.number for each in totals.counted if each.measure == "accepted"]
        assert status.balanced
        seen.append((status.accepted, counted))

    async def work():
        await look()
        leases = await theirs.store.claim("orders", owner="w", limit=1)
        await theirs.store.record([theirs.delivered(lease) for lease in leases])
        await look()
        await theirs.store.fold()
        await look()
        theirs.clock.advance(3600)
        await compact(theirs.store)
        await look()

    ours.run(within_an_open_transaction(ours, work))
    assert seen == [(2, 2)] * 4
    assert counters(ours) == {"orders": 3}
    assert ours.status().balanced
    ours.fold()
    assert ours.rows(schema.acceptances) == []
    assert counters(ours) == {"orders": 3}
    assert ours.status().balanced


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


def test_folds_at_once_move_each_row_once(open_desk, store_url):
    desks = [open_desk(store_url) for _ in range(3)]
    for number in range(30):
        desks[0].enqueue(f"evt_{number}", endpoint=f"crm-{number % 3}")

    async def fold_at_once():
        await asyncio.gather(*(each.store.fold() for each in desks))

    desks[0].run(fold_at_once())
    assert desks[0].rows(schema.acceptances) == []
    assert {row["name"]: row["accepted"] for row in desks[0].rows(schema.ledgers)} == {
        "crm-0": 10,
        "crm-1": 10,
        "crm-2": 10,
    }
    assert counters(desks[0]) == {"crm-0": 10, "crm-1": 10, "crm-2": 10}


def test_a_fold_that_is_rolled_back_moves_nothing(desk):
    desk.enqueue("evt_1")
    before = desk.rows(schema.acceptances)

    def fold_and_fail(connection):
        assert acceptances.fold(connection, limit=10) == 1
        raise KeyError

    with pytest.raises(KeyError):
        desk.write(fold_and_fail)
    assert desk.rows(schema.acceptances) == before
    assert desk.rows(schema.ledgers) == desk.rows(schema.rollups) == []
    assert desk.status().balanced


def test_a_fold_counts_events_in_the_minute_in_which_they_were_accepted(desk):
    minute = int(desk.clock() // 60) * 60
    desk.enqueue("evt_1", "evt_2", desk.make("evt_3", event_type="order.refunded"))
    desk.clock.advance(60)
    desk.enqueue("evt_4")
    desk.clock.advance(3600)
    desk.fold()
    rows = [(row["minute"], row["event_type"], row["count"], row["le"]) for row in desk.rows(schema.rollups)]
    assert rows == [
        (minute, "order.paid", 2, math.inf),
        (minute, "order.refunded", 1, math.inf),
        (minute + 60, "order.paid", 1, math.inf),
    ]


@pytest.mark.parametrize("producer_counts", [True, False])
def test_the_producer_decides_whether_rollups_count(open_desk, store_url, producer_counts):
    producer = open_desk(store_url, rollups=producer_counts)
    folder = open_desk(store_url, rollups=not producer_counts)
    producer.enqueue("evt_1")
    expected = {"orders": 1} if producer_counts else {}
    assert counters(folder) == expected
    folder.fold()
    assert counters(folder) == expected
    assert (folder.status().accepted, folder.status().balanced) == (1, True)


def test_an_endpoint_is_known_before_it_is_folded(desk):
    desk.enqueue("evt_1", endpoint="crm")
    desk.enqueue("evt_2", endpoint="billing")
    assert desk.read(acceptances.read_endpoints) == ("billing", "crm")
    assert [due.endpoint for due in desk.run(desk.store.due())] == ["billing", "crm"]
    assert [due.endpoint for due in desk.run(desk.store.due("crm"))] == ["crm"]
    desk.fold()
    assert desk.read(acceptances.read_endpoints) == ("billing", "crm")
    desk.deliver(*desk.claim(endpoint="crm"))
    assert [due.endpoint for due in desk.run(desk.store.due())] == ["billing"]
    assert desk.run(desk.store.due("crm")) == []


def test_a_compaction_folds_more_rows_than_one_batch(desk, monkeypatch):
    monkeypatch.setattr("resonant.store.store._FOLD_BATCH", 2)
    for number in range(5):
        desk.enqueue(f"evt_{number}")
    desk.run(compact(desk.store))
    assert desk.rows(schema.acceptances) == []
    assert counters(desk) == {"orders": 5}


def test_without_rows_to_fold_the_store_is_only_read(desk, monkeypatch):
    async def refuse(*_arguments, **_options):
        raise AssertionError("the store was written")

    monkeypatch.setattr(Store, "write", refuse)
    desk.fold()
