"""Tallies: one row for each transaction, which readers add up and folds move."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from resonant.delivery.retry import GiveUp
from resonant.metrics.totals import measure
from resonant.store import WorkerStore, schema
from resonant.store.counts.counters import Tally
from resonant.store.queue.outcomes import record


def assert_same(desk, before):
    totals, found = desk.run(measure(desk.store, hours=24))
    assert replace(totals, counted=frozenset(totals.counted)) == replace(
        before[0], counted=frozenset(before[0].counted)
    )
    assert found == before[1]


def test_what_is_not_folded_is_in_counters_and_statistics_and_a_fold_changes_nothing(desk):
    desk.enqueue(*(f"evt_{n}" for n in range(5)))
    first, second, *rest = desk.claim()
    desk.deliver(first)
    desk.fail(second, GiveUp("permanent"), duration=0.7)
    before = desk.run(measure(desk.store, hours=24))
    assert before[1].overall.attempts.total == sum(
        each.number for each in before[0].counted if each.measure == "attempt"
    )
    assert before[1].overall.attempts.total == 2
    hour = desk.status().endpoints[0]
    assert (hour.delivered_last_hour, hour.failed_last_hour) == (1, 1)
    desk.fold()
    assert desk.rows(schema.tallies) == []
    assert_same(desk, before)
    assert desk.status().endpoints[0] == hour
    desk.deliver(*rest)
    before = desk.run(measure(desk.store, hours=24))
    assert before[1].overall.attempts.total == 5
    desk.fold()
    assert_same(desk, before)


def test_a_row_holds_what_was_counted(desk):
    tally = Tally(desk.clock())
    tally.add("replay", "orders", "t\n'", "replayed", count=3)
    tally.add("attempt", "orders", "t", "failed", "transient", "http_503", detail="É", seconds=0.25)
    tally.add_all("attempt", "crm", "t", "delivered", [0.1, -1.0, 1e6])
    desk.write(tally.write)
    [row] = desk.rows(schema.tallies)
    again = Tally(row["minute"])
    again.add_row(row["entries"], row["seconds"])
    assert (again.minute, again.rows()) == (tally.minute, tally.rows())
    assert sorted(again.sketches(), key=str) == sorted(tally.sketches(), key=str)


def test_an_empty_tally_makes_no_row(desk):
    desk.write(Tally(desk.clock()).write)
    assert desk.rows(schema.tallies) == []


def test_outcomes_of_one_endpoint_do_not_wait_for_each_other(open_desk, postgresql_url):
    """Otherwise all processes that send to an endpoint would commit one after the other."""
    desk = open_desk(postgresql_url)
    desk.enqueue("evt_1", "evt_2")
    first, second = desk.claim()
    desk.begin(first, second)
    outcomes = [desk.delivered(first)], [desk.delivered(second)]

    async def record_both():
        other = await WorkerStore.open(postgresql_url, clock=desk.clock)
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(record, outcomes[0], now=desk.clock())
            async with asyncio.timeout(10):
                await other.record(outcomes[1])
        await other.close()

    desk.run(record_both())
    desk.fold()
    [counted] = [row for row in desk.rows(schema.rollups) if row["measure"] == "delivery"]
    assert counted["count"] == 2


def test_folds_at_once_move_each_row_once(open_desk, store_url):
    desk = open_desk(store_url)
    desk.enqueue(*(f"evt_{n}" for n in range(30)))
    for lease in desk.claim():
        desk.deliver(lease)
    before = desk.run(measure(desk.store, hours=24))

    async def all_at_once():
        stores = [await WorkerStore.open(store_url, clock=desk.clock) for _ in range(3)]
        await asyncio.gather(*(store.fold() for store in stores))
        for store in stores:
            await store.close()

    desk.run(all_at_once())
    assert desk.rows(schema.tallies) == []
    assert_same(desk, before)
