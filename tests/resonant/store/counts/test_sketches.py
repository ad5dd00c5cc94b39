"""Sketches of durations in the store: inserted with the facts, merged later, with the same sums."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.delivery.retry import GiveUp, Park
from resonant.metrics.statistics import read_statistics
from resonant.store import WorkerStore, schema
from resonant.store.counter_compaction import compact
from resonant.store.counts import sketches
from resonant.store.counts.sketches import Labels, Sketch

HOUR, DAY = 3600, 86_400


def rows(desk):
    return [
        sketches.Packed(row["minute"], row["entries"], row["buckets"]) for row in desk.rows(schema.sketches)
    ]


def sums(desk, measure=None):
    """Fold, and return the sums of all rows, by labels."""
    desk.fold()
    found = dict(sketches.unpack(sketches.merge(0, rows(desk))))
    return {labels: each for labels, each in found.items() if measure in (None, labels.measure)}


@given(st.floats(sketches.SHORTEST, 1e9))
def test_a_bucket_is_represented_within_one_percent(seconds):
    assert sketches.seconds_of(sketches.bucket_of(seconds)) == pytest.approx(seconds, rel=0.01)
    assert math.isclose(sketches.RELATIVE_ERROR, 0.0099, rel_tol=0.01)


def test_durations_of_zero_have_a_bucket_of_their_own():
    assert sketches.seconds_of(sketches.bucket_of(0.0)) == 0.0
    assert sketches.bucket_of(sketches.SHORTEST) > sketches.ZERO_BUCKET


def test_a_row_holds_what_was_put_into_it():
    given = [
        (Labels("attempt", "orders", "t\n\"'", "failed", "", "", "É"), Sketch.of([0.0, 0.5, 1e7], 3)),
        (Labels("attempt", "crm", "t", "lost"), Sketch.of([], 2)),
    ]
    assert sketches.unpack(sketches.pack(60, given)) == given
    assert sketches.unpack(sketches.pack(60, [])) == []


def test_a_fold_inserts_one_row_with_what_was_measured(desk):
    desk.enqueue("evt_1", "evt_2", "evt_3", policy="patient")
    accepted_at = desk.clock()
    first, second, third = desk.claim()
    desk.clock.advance(7)
    desk.record(
        desk.delivered(first, duration=0.02, started_at=accepted_at + 6),
        desk.failed(second, desk.park_for(40), duration=0.3, started_at=accepted_at + 5, retry_after=1.0),
        desk.failed(third, GiveUp("permanent"), category="permanent", code="http_400", duration=0.02),
    )
    assert len(desk.rows(schema.tallies)) == 1
    where = ("orders", "order.paid")
    failed = (*where, "failed")
    found = {labels: (each.count, each.least, each.most) for labels, each in sums(desk).items()}
    first_attempts = found.pop(Labels("first_attempt", *where))
    assert first_attempts[0] == 3
    assert found == {
        Labels("attempt", *where, "delivered"): (1, 0.02, 0.02),
        Labels("attempt", *failed, "transient", "http_503", "UnexpectedStatus"): (1, 0.3, 0.3),
        Labels("attempt", *failed, "permanent", "http_400", "UnexpectedStatus"): (1, 0.02, 0.02),
        Labels("delivery", *where, "delivered"): (1, 7.0, 7.0),
        Labels("delivery", *where, "dead_letter", "permanent", "http_400", "permanent"): (1, 7.0, 7.0),
        Labels("retries", *where): (2, 0, 0),
        Labels("delay", *where, detail="1 1 patient"): (1, 40.0, 40.0),
    }


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
    for labels, each in sums(desk, "delay").items():
        numbers[labels.detail.split(" ")[0]] += each.count
    assert numbers == {"1": 2, "2": 1, "3": 1}


def test_a_replay_takes_a_dead_letter_back_in_the_hour_in_which_it_was_given_up(desk):
    desk.enqueue("evt_1")
    desk.fail(desk.claim_one(), GiveUp("exhausted"))
    desk.clock.advance(5 * HOUR)
    desk.replay()
    [taken_back] = sums(desk, "replayed").items()
    assert taken_back == (
        Labels("replayed", "orders", "order.paid", "dead_letter", detail="exhausted"),
        Sketch.of([0.0]),
    )
    hour = (desk.clock() - 5 * HOUR) // HOUR * HOUR
    assert hour in {row.minute for row in rows(desk)}


def test_a_minute_that_is_over_becomes_one_row(desk):
    desk.enqueue(*(f"evt_{n}" for n in range(6)))
    for lease in desk.claim():
        desk.deliver(lease)
        desk.fold()
    before = sums(desk)
    assert len(rows(desk)) == 6, "the minute goes on"
    desk.clock.advance(60)
    desk.fold()
    assert len(rows(desk)) == 1
    assert sums(desk) == before


def test_minutes_become_hours_and_hours_become_days_and_no_sum_changes(desk):
    start = desk.clock()
    for number in range(4):
        desk.enqueue(f"evt_{number}")
        desk.deliver(desk.claim_one())
        desk.clock.advance(20 * 60)
    before = sums(desk)
    desk.run(compact(desk.store))
    minutes = [row.minute for row in rows(desk) if row.minute > desk.clock() - HOUR]
    assert len(minutes) == 2, "the last hour is kept by the minute"
    desk.clock.advance(3 * HOUR)
    desk.run(compact(desk.store))
    assert all(row.minute % HOUR == 0 for row in rows(desk))
    assert len(rows(desk)) == 2
    desk.clock.advance(62 * DAY)
    desk.run(compact(desk.store))
    [row] = rows(desk)
    assert row.minute == start // DAY * DAY
    assert sums(desk) == before


@pytest.mark.parametrize("minutes", [1, 59, 61, 125, 60 * 24 * 61])
def test_a_compaction_does_not_change_what_a_window_holds(desk, minutes):
    """A window begins with a minute only while minutes are kept."""
    for number in range(6):
        desk.enqueue(f"evt_{number}")
        desk.deliver(desk.claim_one())
        desk.clock.advance(11 * 60)
    desk.clock.advance(60 * max(0, minutes - 66))
    since = desk.clock() - 60 * minutes

    def figures():
        desk.fold()
        return desk.read(read_statistics, now=desk.clock(), since=since)

    before = figures()
    desk.run(compact(desk.store))
    after = figures()
    if minutes > 60 * 24 * 60:  # days have no hours
        before, after = replace(before, hourly=()), replace(after, hourly=())
    assert after == before


def test_two_processes_that_merge_at_once_lose_and_double_nothing(open_desk, store_url):
    desk = open_desk(store_url)
    desk.enqueue(*(f"evt_{n}" for n in range(30)))
    for lease in desk.claim():
        desk.deliver(lease)
    before = sums(desk)
    desk.clock.advance(60)

    async def all_at_once():
        stores = [await WorkerStore.open(store_url, clock=desk.clock) for _ in range(3)]
        await asyncio.gather(*(compact(store) for store in stores))
        for store in stores:
            await store.close()

    asyncio.run(all_at_once())
    assert sums(desk) == before


def test_what_is_rolled_back_is_not_measured(desk):
    desk.enqueue("evt_1")
    outcome = desk.delivered(desk.claim_one())

    def record_and_fail(connection):
        from resonant.store.queue.outcomes import record

        record(connection, [outcome], now=desk.clock())
        raise KeyError

    with pytest.raises(KeyError):
        desk.write(record_and_fail)
    assert desk.rows(schema.tallies) == []


def test_switched_off_nothing_is_measured(open_desk, store_url):
    desk = open_desk(store_url, rollups=False)
    desk.enqueue("evt_1")
    desk.deliver(desk.claim_one())
    desk.fold()
    assert rows(desk) == desk.rows(schema.tallies) == []
