"""Counters by minute, written with the facts they count."""

from __future__ import annotations

import math
import random

import pytest
from sqlalchemy import create_engine, select

from resonant.dead_letters.purge import Retention
from resonant.delivery.retry import GiveUp
from resonant.store import WorkerStore, enqueue, schema
from resonant.store.counts.counters import BUCKETS, QUANTUM, Tally
from resonant.store.views.selection import Selection


def rollups(desk, measure):
    """Return the rows of a measure, without the columns that say which they are."""
    desk.fold()
    rows = [row for row in desk.rows(schema.rollups) if row["measure"] == measure]
    return [
        (row["minute"], row["result"], row["category"], row["code"], row["le"], row["count"], row["total"])
        for row in rows
    ]


def test_accepted_deliveries_are_counted_by_type(desk):
    minute = int(desk.clock() // 60) * 60
    desk.enqueue("evt_1", "evt_2", desk.make("evt_3", event_type="order.refunded"))
    desk.enqueue("evt_1", "evt_4")
    assert rollups(desk, "accepted") == [
        (minute, "accepted", "", "", math.inf, 3, 0.0),
        (minute, "accepted", "", "", math.inf, 1, 0.0),
    ]
    assert {row["event_type"] for row in desk.rows(schema.rollups)} == {"order.paid", "order.refunded"}


def test_each_minute_has_its_own_row(desk):
    desk.enqueue("evt_1")
    desk.clock.advance(60)
    desk.enqueue("evt_2")
    first, second = rollups(desk, "accepted")
    assert second[0] - first[0] == 60


def test_attempts_delays_and_ends_are_counted_with_their_seconds(desk):
    desk.enqueue("evt_1", "evt_2", "evt_3", "evt_4")
    leases = desk.claim()
    desk.clock.advance(7)
    minute = int(desk.clock() // 60) * 60
    desk.record(
        desk.delivered(leases[0], duration=0.02),
        desk.failed(leases[1], desk.retry_in(2), duration=0.3),
        desk.failed(leases[2], desk.park_for(40), duration=0.4),
        desk.failed(leases[3], GiveUp("permanent"), category="permanent", code="http_400", duration=0.02),
    )
    transient = ("transient", "http_503")
    assert rollups(desk, "attempt") == [
        (minute, "delivered", "", "", 0.025, 1, pytest.approx(0.02, abs=QUANTUM)),
        (minute, "failed", "permanent", "http_400", 0.025, 1, pytest.approx(0.02, abs=QUANTUM)),
        (minute, "failed", *transient, 0.5, 2, pytest.approx(0.7, abs=QUANTUM)),
    ]
    assert rollups(desk, "retry_delay") == [
        (minute, "park", *transient, 60.0, 1, 40.0),
        (minute, "retry", *transient, 2.5, 1, 2.0),
    ]
    assert rollups(desk, "delivery") == [
        (minute, "dead_letter", "permanent", "http_400", 10.0, 1, 7.0),
        (minute, "delivered", "", "", 10.0, 1, 7.0),
    ]


def test_a_value_on_a_bound_is_in_its_bucket_and_one_above_the_last_in_infinity(desk):
    def count(connection):
        tally = Tally(desk.clock())
        for seconds in (0.005, 0.0051, 86_400.0, 86_400.1):
            tally.add("attempt", "orders", "t", "delivered", seconds=seconds)
        tally.settle(connection)

    desk.write(count)
    assert [row["le"] for row in desk.rows(schema.rollups)] == [0.005, 0.01, 86_400.0, math.inf]


def test_counts_of_infinity_add_up_in_one_row(desk):
    for _ in range(3):
        desk.enqueue(desk.make(f"evt_{len(desk.rows(schema.events))}"))
        desk.fold()
    [row] = desk.rows(schema.rollups)
    assert (row["le"], row["count"]) == (math.inf, 3)


def test_a_clock_that_was_put_back_lowers_no_sum(desk):
    desk.enqueue("evt_1", "evt_2")
    first, second = desk.claim()
    desk.clock.advance(10)
    desk.deliver(first)
    desk.clock.advance(-20)
    desk.deliver(second)
    desk.fold()
    assert sum(row["total"] for row in desk.rows(schema.rollups) if row["measure"] == "delivery") == 10.0


def test_what_is_rolled_back_is_not_counted(desk):
    desk.enqueue("evt_1")
    desk.fold()
    before = desk.rows(schema.rollups)

    def count_and_fail(connection):
        tally = Tally(desk.clock())
        tally.add("accepted", "orders", "order.paid", "accepted")
        tally.write(connection)
        raise KeyError

    with pytest.raises(KeyError):
        desk.write(count_and_fail)
    assert desk.rows(schema.rollups) == before


def test_the_buckets_go_up_to_infinity():
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert BUCKETS[-1] == math.inf


def test_sums_of_seconds_are_the_same_in_whichever_order_they_are_added(desk):
    """Otherwise a sum could fall by its last digit, and Prometheus would take that for a restart."""
    rng = random.Random(3)
    told = [rng.lognormvariate(-2, 2) for _ in range(300)]

    def count(connection):
        for seconds in told:
            tally = Tally(desk.clock())
            tally.add("attempt", "orders", "t", "delivered", seconds=seconds)
            tally.settle(connection)

    desk.write(count)
    totals = [row["total"] for row in desk.rows(schema.rollups)]
    assert (
        math.fsum(totals)
        == sum(totals)
        == sum(reversed(totals))
        == pytest.approx(sum(told), abs=300 * QUANTUM)
    )


@pytest.mark.parametrize("rollups", [True, False])
def test_switched_off_nothing_is_counted_and_the_ledgers_stand(open_desk, store_url, rollups):
    desk = open_desk(store_url, rollups=rollups)

    async def accept_in_a_transaction():
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(enqueue, [desk.make("evt_3")], "orders", now=desk.clock())

    desk.enqueue("evt_1", "evt_2")
    desk.run(accept_in_a_transaction())
    first, second, third = desk.claim()
    desk.deliver(first)
    desk.fail(second, GiveUp("permanent"))
    desk.begin(third)
    desk.clock.advance(61)
    desk.rescue()
    desk.replay(Selection(endpoint="orders"))
    desk.cancel(endpoint="orders")
    assert desk.purge(Retention(dead_letters=30, delivered=0)) == 1

    desk.fold()
    measures = {row["measure"] for row in desk.rows(schema.rollups)}
    every = {"accepted", "attempt", "delivery", "replay", "purge"}
    assert measures == (every if rollups else set())
    status = desk.status()
    assert (status.accepted, status.purged, status.balanced) == (3, 1, True)


def test_a_producers_own_connection_counts(desk, sqlite_url):
    """As in examples/outbox.py: there is no store to switch anything off."""
    desk.run(open_and_close(sqlite_url))
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        enqueue(connection, [desk.make("evt_1")], "orders", now=desk.clock())
        assert connection.execute(select(schema.acceptances.c.counted)).scalars().all() == [True]
    engine.dispose()


async def open_and_close(url):
    await (await WorkerStore.open(url)).close()
