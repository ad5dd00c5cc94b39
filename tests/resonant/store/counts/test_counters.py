"""Counts: one row for each transaction, written with the facts that it counts; folds turn them into sketches, and readers add both."""

import asyncio
from collections import Counter
from typing import get_args

from resonant.delivery.retry import GiveUp, Park
from resonant.metrics.totals import measure
from resonant.store import schema
from resonant.store.counts.counters import Measure, Tally, read_counts
from resonant.store.counts.sketches import NANOSECONDS, Labels, Sketch
from resonant.store.queue.outcomes import record
from support.metrics import plain
from support.postgresql import on_postgresql
from support.sqlite import on_sqlite

HOUR = 3600
WHERE = ("orders", "order.paid")
EVERY = get_args(Measure)


def in_windows(desk, measure=None):
    """Return the counts of all minutes by their labels."""
    found = Counter()
    for _, labels, number, _ in desk.read(read_counts, [measure] if measure else EVERY, since=0):
        found[labels] += number
    return dict(found)


def measured(desk):
    """Return the counters, gauges and statistics, for comparison."""
    totals, found = desk.run(measure(desk.store, hours=24))
    return totals, plain(found)


def test_attempts_delays_and_ends_are_counted_with_their_durations(desk):
    desk.enqueue("evt_1", "evt_2", "evt_3", "evt_4", policy="patient")
    accepted_at = desk.clock()
    first, second, third, fourth = desk.claim()
    desk.clock.advance(7)
    desk.record(
        desk.delivered(first, duration=0.02, started_at=accepted_at + 6),
        desk.failed(second, desk.retry_in(2), duration=0.3),
        desk.failed(third, desk.park_for(40), duration=0.4, retry_after=1.0),
        desk.failed(fourth, GiveUp("permanent"), category="permanent", code="http_400", duration=0.02),
    )
    assert len(desk.rows(schema.tallies)) == 1
    failed = (*WHERE, "failed")
    assert in_windows(desk) == {
        Labels("attempt", *WHERE, "delivered"): 1,
        Labels("attempt", *failed, "transient", "http_503", "UnexpectedStatus"): 2,
        Labels("attempt", *failed, "permanent", "http_400", "UnexpectedStatus"): 1,
        Labels("first_attempt", *WHERE): 4,
        Labels("delivery", *WHERE, "delivered"): 1,
        Labels("delivery", *WHERE, "dead_letter", "permanent", "http_400", "permanent"): 1,
        Labels("retries", *WHERE): 2,
        Labels("delay", *WHERE, detail="1 0 patient"): 1,
        Labels("delay", *WHERE, detail="1 1 patient"): 1,
    }
    for _ in range(2):
        assert {
            labels: (each.count, each.total / NANOSECONDS, sorted(each.by_bound().items())[:-1])
            for labels, each in desk.counters().items()
        } == {
            Labels("attempt", "orders", "", "delivered"): (1, 0.02, [(0.025, 1)]),
            Labels("attempt", "orders", "", "failed", "transient", "http_503"): (2, 0.7, [(0.5, 2)]),
            Labels("attempt", "orders", "", "failed", "permanent", "http_400"): (1, 0.02, [(0.025, 1)]),
            Labels("delivery", "orders", "", "delivered"): (1, 7.0, [(10.0, 1)]),
            Labels("delivery", "orders", "", "dead_letter", "permanent", "http_400"): (1, 7.0, [(10.0, 1)]),
            Labels("delay", "orders", ""): (2, 42.0, [(2.5, 1), (60.0, 1)]),
        }
        desk.fold()


def test_each_minute_has_its_own_counts(desk):
    minute = int(desk.clock() // 60) * 60
    desk.enqueue("evt_1", "evt_2")
    for lease in desk.claim():
        desk.deliver(lease)
        desk.clock.advance(60)
    desk.fold()
    counts = desk.read(read_counts, EVERY, since=minute + 60, until=minute + 60)
    assert {(each.minute, each.number) for each in counts} == {(minute + 60, 1)}


def test_the_number_of_a_delay_is_the_one_that_the_policy_counts(desk):
    """A lost attempt and an early one do not count; a replay restarts the count."""
    desk.enqueue("evt_1")
    for early in (False, True, False):
        lease, now = desk.claim_one(), desk.clock()
        own = lease.backoff_until if early else now + 3
        desk.fail(lease, Park(1.0, now + 1, backoff_until=own, charged=not early))
        desk.clock.advance(1)
    desk.begin(desk.claim_one())
    desk.clock.advance(61)
    desk.rescue()
    desk.fail(desk.claim_one(), desk.park_for(1))
    numbers = Counter()
    for labels, number in in_windows(desk, "delay").items():
        numbers[labels.detail.split(" ")[0]] += number
    assert numbers == {"1": 2, "2": 1, "3": 1}


def test_a_replay_counts_against_the_hour_in_which_the_dead_letter_was_given_up(desk):
    desk.enqueue("evt_1")
    desk.fail(desk.claim_one(), GiveUp("exhausted"))
    desk.clock.advance(5 * HOUR)
    desk.replay()
    [replayed] = desk.read(read_counts, ["replayed"], since=0)
    assert replayed.labels == Labels("replayed", *WHERE, "dead_letter", detail="exhausted")
    assert replayed.minute == (desk.clock() - 5 * HOUR) // HOUR * HOUR


def test_a_clock_that_was_set_back_lowers_no_sum(desk):
    desk.enqueue("evt_1", "evt_2")
    first, second = desk.claim()
    desk.clock.advance(10)
    desk.deliver(first)
    desk.clock.advance(-20)
    desk.deliver(second)
    [delivered] = desk.counters("delivery").values()
    assert (delivered.count, delivered.total) == (2, 10 * NANOSECONDS)


@on_sqlite
def test_a_tally_is_the_same_after_a_round_trip_and_an_empty_one_makes_no_row(desk):
    desk.write(Tally(desk.clock()).write)
    assert desk.rows(schema.tallies) == []
    tally = Tally(desk.clock())
    tally.add("replay", "orders", "t\n'", "replayed", count=3)
    tally.add("attempt", "orders", "t", "failed", "transient", "http_503", detail="É", seconds=0.25)
    tally.add_all("attempt", "crm", "t", "delivered", [0.1, -1.0, 1e6])
    desk.write(tally.write)
    [row] = desk.rows(schema.tallies)
    again = Tally(row["minute"])
    again.add_row(row["entries"], row["seconds"])
    assert again.sketches() == tally.sketches()
    assert dict(again.sketches())[Labels("attempt", "crm", "t", "delivered")] == Sketch.of([0.1, -1.0, 1e6])


def test_a_fold_changes_no_counter_and_no_statistics(desk):
    desk.enqueue(*(f"evt_{n}" for n in range(5)))
    first, second, *rest = desk.claim()
    desk.deliver(first)
    desk.fail(second, GiveUp("permanent"), duration=0.7)
    before, hour = measured(desk), desk.status().endpoints[0]
    assert sum(each.count for each in desk.counters("attempt").values()) == 2
    assert (hour.delivered_last_hour, hour.failed_last_hour) == (1, 1)
    desk.fold()
    assert desk.rows(schema.tallies) == []
    assert measured(desk) == before
    assert desk.status().endpoints[0] == hour
    desk.deliver(*rest)
    before = measured(desk)
    desk.fold()
    assert measured(desk) == before


@on_postgresql
def test_outcomes_of_one_endpoint_do_not_wait_for_each_other(desk):
    """Otherwise all processes that send to an endpoint would commit one after the other."""
    desk.enqueue("evt_1", "evt_2")
    first, second = desk.claim()
    desk.begin(first, second)

    async def record_both():
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(record, [desk.delivered(first)], now=desk.clock())
            await desk.store.record([desk.delivered(second)])

    desk.run(record_both())
    assert [each.count for each in desk.counters("delivery").values()] == [2]


def test_concurrent_folds_move_each_row_once(open_desk, store_url):
    desks = [open_desk(store_url) for _ in range(3)]
    desk = desks[0]
    for number in range(30):
        desk.enqueue(f"evt_{number}", endpoint=f"crm-{number % 3}")
    for lease in desk.claim(endpoint="crm-0"):
        desk.deliver(lease)
    before = measured(desk)

    async def fold_at_once():
        await asyncio.gather(*(each.store.fold() for each in desks))

    desk.run(fold_at_once())
    assert desk.rows(schema.tallies) == []
    assert desk.rows(schema.acceptances) == []
    assert {row["name"]: row["accepted"] for row in desk.rows(schema.ledgers)} == dict.fromkeys(
        ("crm-0", "crm-1", "crm-2"), 10
    )
    assert measured(desk) == before
