"""Sketches of durations in the store: merged into hours, days and ever, with the same sums at every moment."""

import asyncio
import math
import random
from collections import Counter
from dataclasses import astuple
from itertools import accumulate, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from resonant.metrics.conditions import read_activity
from resonant.metrics.statistics import read_statistics
from resonant.store import schema
from resonant.store.counts import sketches
from resonant.store.counts.counters import Tally, read_ever
from resonant.store.counts.sketches import BOUNDS, EVER, Labels, Sketch, Span
from support.examples import examples
from support.metrics import plain
from support.sqlite import on_sqlite

MINUTE, HOUR, DAY = 60, 3600, 86_400
LABELS = Labels("attempt", "orders", "t", "delivered")


def count(connection, now, facts):
    tally = Tally(now)
    for measure, endpoint, code, seconds in facts:
        tally.add(measure, endpoint, "order.paid", "failed", "transient", code, seconds=seconds)
    tally.settle(connection)


def add(desk, *ages, facts=(("attempt", "orders", "http_503", 0.3),)):
    """Count these facts so many seconds ago, once for each age."""

    def count_all(connection):
        for age in ages:
            count(connection, desk.clock() - age, facts)

    desk.write(count_all)


def rows(desk):
    return [
        sketches.Packed(row["minute"], row["entries"], row["buckets"]) for row in desk.rows(schema.sketches)
    ]


def minutes(desk):
    """Return the minutes, hours and days of the rows of windows."""
    return sorted(row.minute for row in rows(desk) if row.minute != EVER)


def sums(desk):
    """Return the sums of all windows, and those of ever, by labels."""
    of_windows = sketches.add_up(row for row in rows(desk) if row.minute != EVER)
    return dict(of_windows), desk.counters()


def compact(desk):
    return desk.run(desk.store.compact())


def start_of(moment, size):
    return int(moment // size) * size


@given(st.floats(sketches.SHORTEST, 1e9))
def test_a_bucket_is_represented_within_one_percent_and_zero_has_one_of_its_own(seconds):
    assert sketches.seconds_of(sketches.bucket_of(seconds)) == pytest.approx(seconds, rel=0.01)
    assert sketches.bucket_of(seconds) > sketches.ZERO_BUCKET == sketches.bucket_of(0.0)
    assert sketches.seconds_of(sketches.ZERO_BUCKET) == 0.0


@pytest.mark.parametrize("minute", [60, EVER])
def test_a_row_is_the_same_after_a_round_trip(minute):
    given = [
        (Labels("attempt", "orders", "t\n\"'", "failed", "", "", "É"), Sketch.of([0.0, 0.5, 1e7], 3)),
        (Labels("attempt", "crm", "t", "lost"), Sketch.of([], 2)),
    ]
    assert list(sketches.add_up([sketches.pack(minute, given)]).items()) == given
    assert sketches.add_up([sketches.pack(minute, [])]) == {}


def test_ever_counts_beyond_32_bits():
    many = Sketch(2**40, 2**40, 1.0, 1.0, Counter({35: 2**40}))
    row = sketches.pack(EVER, [(LABELS, many)])
    assert sketches.add_up([row, row])[LABELS].by_bound()[2.5] == 2**41


@given(st.lists(st.floats(0, 1e6) | st.sampled_from(BOUNDS[:-1]), max_size=50), st.integers(0, 5))
def test_histograms_are_exact_to_one_percent_at_their_bounds_and_monotone(durations, unmeasured):
    assert list(BOUNDS) == sorted(set(BOUNDS))
    sketch = Sketch.of(durations, unmeasured)
    counts = sketch.by_bound()
    assert sketch.coarse().by_bound() == sketch.coarse().coarse().by_bound() == counts
    below = dict(zip(BOUNDS, accumulate(counts[bound] for bound in BOUNDS), strict=True))
    assert below[math.inf] == len(durations) + unmeasured
    for bound in BOUNDS[:-1]:
        least, most = (sum(each <= part * bound for each in durations) for part in (0.99, 1.01))
        assert least <= below[bound] <= most
    assert all(lower <= higher for lower, higher in pairwise(below.values()))


def test_a_minute_that_is_over_becomes_one_row(desk):
    desk.enqueue(*(f"evt_{n}" for n in range(6)))
    for lease in desk.claim():
        desk.deliver(lease)
        desk.fold()
    before = sums(desk)
    assert len(minutes(desk)) == 6, "the minute goes on"
    desk.clock.advance(60)
    desk.fold()
    assert len(minutes(desk)) == 1
    assert sums(desk) == before


def test_minutes_become_hours_and_hours_become_days(desk):
    hour = start_of(desk.clock() - 5 * HOUR, HOUR)
    day = start_of(desk.clock() - 62 * DAY, DAY)
    young = start_of(desk.clock() - 58 * DAY, HOUR)
    recent = [start_of(desk.clock() - age, MINUTE) for age in (59 * MINUTE, 2 * MINUTE)]
    starts = [*(hour + n * MINUTE for n in range(60)), *(day + n * HOUR for n in range(24)), young, *recent]
    add(desk, *(desk.clock() - start for start in starts))
    before = sums(desk)

    assert compact(desk) == 60 + 24 + len(starts), "the last are the rows of ever"

    assert minutes(desk) == [day, young, hour, *recent]
    assert [row.minute for row in rows(desk)].count(EVER) == 1
    assert sums(desk) == before
    assert compact(desk) == 0, "there is nothing left to do"


def test_ever_has_no_event_types_and_only_buckets_between_bounds(desk):
    for event_type in ("order.paid", "order.refunded"):
        tally = Tally(desk.clock())
        for seconds in (0.3, 0.31, 0.4):
            tally.add("attempt", "orders", event_type, "delivered", detail="x", seconds=seconds)
        tally.add("retries", "orders", event_type, seconds=1)
        desk.write(tally.settle)
    compact(desk)
    [(labels, sketch)] = desk.counters().items()
    assert labels == Labels("attempt", "orders", "", "delivered")
    assert list(sketch.buckets.values()) == [6]


def test_dispatchers_merge_ever_when_it_has_many_rows(desk, monkeypatch):
    monkeypatch.setattr(sketches, "_EVER_ROWS", 3)
    for number in range(4):
        assert [row.minute for row in rows(desk)].count(EVER) == number
        add(desk, 0)
        desk.fold()
    assert [row.minute for row in rows(desk)].count(EVER) == 1


def test_a_writer_whose_clock_is_behind_adds_to_merged_sketches(desk):
    add(desk, 50 * HOUR, 50 * HOUR + MINUTE, HOUR)
    compact(desk)
    add(desk, 50 * HOUR, 50 * HOUR, HOUR)
    before = sums(desk)
    compact(desk)
    assert sums(desk) == before
    assert desk.counted("attempt") == 6
    assert len(minutes(desk)) == 2


facts = st.tuples(
    st.sampled_from(["attempt", "delivery", "delay", "replay"]),
    st.sampled_from(["orders", "crm"]),
    st.sampled_from(["http_503", "timeout"]),
    st.floats(0, 100_000, allow_nan=False),
)
ages = st.one_of(
    st.floats(-10 * MINUTE, 2 * HOUR), st.floats(22 * HOUR, 30 * HOUR), st.floats(59 * DAY, 63 * DAY)
)


@on_sqlite
@settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    history=st.lists(st.tuples(ages, st.lists(facts, min_size=1, max_size=6)), max_size=25),
    limit=st.integers(2, 9),
    window=st.sampled_from([10 * MINUTE, 2 * HOUR, 24 * HOUR]),
)
def test_no_sum_changes_between_two_transactions_of_compactions_that_are_killed(desk, history, limit, window):
    desk.execute(delete(schema.sketches))
    now = desk.clock()

    def fill(connection):
        for age, happened in history:
            count(connection, now - age, happened)

    desk.write(fill)

    def seen():
        activity = desk.read(read_activity, now=now, window=window).items()
        return sums(desk), {
            name: [[round(value, 6) for value in counts] for counts in astuple(each)]
            for name, each in activity
        }

    before = seen()
    # As if each process was killed after one transaction.
    while spans := desk.read(sketches.find_spans, now=now):
        assert desk.write(sketches.gather, spans[0], limit=limit) <= limit
        assert seen() == before


@on_sqlite
@pytest.mark.parametrize("size", [1, 59, 61, 125, 60 * 24 * 61])
def test_a_compaction_does_not_change_the_statistics_of_a_window(desk, size):
    """A window begins with a minute only while minutes are kept."""
    for number in range(6):
        desk.enqueue(f"evt_{number}")
        desk.deliver(desk.claim_one())
        desk.clock.advance(11 * 60)
    desk.clock.advance(60 * max(0, size - 66))

    def figures():
        desk.fold()
        found = plain(desk.read(read_statistics, now=desk.clock(), since=desk.clock() - 60 * size))
        if size > 60 * 24 * 60:
            del found["hourly"]  # days have no hours
        return found

    before = figures()
    compact(desk)
    assert figures() == before


def test_a_compaction_merges_more_rows_than_one_transaction_takes(desk, monkeypatch):
    monkeypatch.setattr(sketches, "ROWS_AT_ONCE", 7)
    add(desk, *(50 * HOUR + n * MINUTE for n in range(60)))
    before = sums(desk)
    compact(desk)
    assert sums(desk) == before
    assert len(rows(desk)) == 3, "two hours and ever"


def test_compactions_beside_writers_lose_and_double_nothing(desk, open_desk, store_url, monkeypatch):
    """Readers see no counter fall, and no transaction runs into a deadlock, which would be tried again."""
    monkeypatch.setattr("resonant.store.engine.postgresql._TRY_AGAIN", ())
    monkeypatch.setattr(sketches, "ROWS_AT_ONCE", 7)
    desks = [desk, *(open_desk(store_url) for _ in range(4))]
    rng = random.Random(5)
    happened = [("attempt", "orders", code, 0.3) for code in ("http_503", "timeout", "http_500")]
    add(desk, *(50 * HOUR + n * MINUTE for n in range(60)), facts=happened)
    # Also the start of an hour, into which others merge.
    start_of_an_hour = desk.clock() - start_of(desk.clock() - 51 * HOUR, HOUR)
    old = [rng.uniform(49, 52) * HOUR for _ in range(10)]
    new = [rng.uniform(0, 20 * MINUTE) for _ in range(15)]
    written = [start_of_an_hour, *old, *[0] * 5, *new]
    seen = []

    async def all_at_once():
        async def write(each):
            for age in written:
                await each.store.write(count, each.clock() - age, happened)

        async def compact_often(each):
            while not writing.done():
                await each.store.compact()

        async def watch(each):
            while not writing.done():
                seen.append(await each.store.read(read_ever))

        writing = asyncio.gather(*map(write, desks[2:4]))
        await asyncio.gather(*map(compact_often, desks[:2]), watch(desks[4]))
        await writing

    desk.run(all_at_once())

    expected = 60 + 2 * len(written)
    assert {(each.count, each.total) for each in desk.counters().values()} == {
        (expected, expected * 300_000_000)
    }
    assert len(seen) > 2
    for before, after in pairwise([*seen, desk.counters()]):
        for labels, each in before.items():
            assert after[labels].count >= each.count
            assert after[labels].total >= each.total
    compact(desk)
    assert desk.read(sketches.find_spans, now=desk.clock()) == []
    assert {each.count for each in sums(desk)[0].values()} == {expected}


def test_an_open_transaction_of_a_producer_blocks_no_compaction(open_desk, postgresql_url):
    desk = open_desk(postgresql_url)
    add(desk, 5 * HOUR, 5 * HOUR)

    async def compact_meanwhile():
        async with desk.store.transaction() as transaction:
            facts = [("attempt", "orders", "http_503", 0.3)]
            await transaction.run_sync(count, desk.clock() - 5 * HOUR, facts)
            await desk.store.compact()

    desk.run(compact_meanwhile())
    assert desk.counted("attempt") == 3


def test_a_span_ends_where_the_next_one_begins(desk):
    hour = start_of(desk.clock() - 60 * HOUR, HOUR)
    add(desk, desk.clock() - hour - HOUR, desk.clock() - hour - HOUR + 60)
    found = desk.read(sketches.find_spans, now=desk.clock())
    assert found == [Span(EVER, EVER + 1), Span(hour, hour + HOUR)]
