"""What is over leaves the rollups for totals and a history; what all of them add up to is the same at every moment."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from resonant.metrics.conditions import read_activity
from resonant.metrics.totals import read_totals
from resonant.store import counter_compaction, schema
from resonant.store.counter_compaction import compact, find_spans, gather, move
from resonant.store.counts.counters import BUCKETS, Tally
from resonant.store.counts.sketches import Span
from support.examples import examples

MINUTE, HOUR, DAY = 60, 3600, 86_400
TABLES = (schema.rollups, schema.rollup_totals, schema.rollup_history)


def count(connection, now, facts):
    tally = Tally(now)
    for measure, endpoint, code, seconds in facts:
        tally.add(measure, endpoint, "order.paid", "failed", "transient", code, seconds=seconds)
    tally.settle(connection)


def add(desk, *ages, facts=(("attempt", "orders", "http_503", 0.3),)):
    """Count these facts so many seconds ago, as often as ages are given."""
    for age in ages:
        desk.write(count, desk.clock() - age, facts)


def sums(rows, *but):
    """Add up what rows of a table count, by their keys but the minute and these."""
    found = defaultdict(lambda: [0, 0.0])
    for row in rows:
        key = tuple(row[name] for name in row if name not in {"minute", "count", "total", *but})
        found[key][0] += row["count"]
        found[key][1] += row["total"]
    return {key: tuple(each) for key, each in found.items()}


def by_label(desk):
    """Return what was counted in all, once by the totals and once by the history, each with the rollups."""
    rollups, totals, history = map(desk.rows, TABLES)
    names = ("measure", "endpoint", "event_type", "result", "category", "code")
    by_type = [{name: row[name] for name in (*names, "count", "total")} for row in (*rollups, *history)]
    by_bucket = [{name: row[name] for name in schema.rollup_totals.c.keys()} for row in (*rollups, *totals)]  # noqa: SIM118
    return sums(by_bucket), sums(by_type)


def counted(desk):
    return sorted(desk.read(read_totals, now=desk.clock()).counted)


def minutes(desk, table):
    return [row["minute"] for row in desk.rows(table)]


def start_of(moment, size):
    return int(moment // size) * size


def compacted(desk):
    return desk.run(compact(desk.store))


def empty(connection):
    for table in TABLES:
        connection.execute(delete(table))


def test_the_last_minutes_stay_and_older_ones_are_in_totals_and_history(desk):
    add(desk, 0, 4 * MINUTE, 7 * MINUTE, 8 * MINUTE, facts=[("attempt", "orders", "http_503", 0.25)])
    *old, _, _ = minutes(desk, schema.rollups)

    compacted(desk)

    assert minutes(desk, schema.rollups) == [
        start_of(desk.clock() - 4 * MINUTE, MINUTE),
        start_of(desk.clock(), MINUTE),
    ]
    assert minutes(desk, schema.rollup_history) == old
    labels = {"measure": "attempt", "result": "failed", "category": "transient", "code": "http_503"}
    assert desk.rows(schema.rollup_totals) == [
        labels | {"endpoint": "orders", "le": 0.25, "count": 2, "total": 0.5}
    ]


def test_totals_have_a_row_for_each_label_however_many_minutes_and_event_types_there_were(desk):
    def count_types(connection, now):
        tally = Tally(now)
        for event_type in ("order.paid", "order.refunded"):
            tally.add("attempt", "orders", event_type, "delivered", seconds=0.3)
        tally.settle(connection)

    for minute in range(10, 70):
        desk.write(count_types, desk.clock() - minute * MINUTE)
    compacted(desk)
    assert [row["count"] for row in desk.rows(schema.rollup_totals)] == [120]
    assert len(desk.rows(schema.rollup_history)) == 120


def test_each_bucket_has_totals_of_its_own_and_the_history_has_none(desk):
    add(desk, HOUR, HOUR + DAY, facts=[("attempt", "orders", "", bound) for bound in BUCKETS[:-1]])
    compacted(desk)
    assert [(row["le"], row["count"]) for row in desk.rows(schema.rollup_totals)] == [
        (bound, 2) for bound in BUCKETS[:-1]
    ]
    assert [row["count"] for row in desk.rows(schema.rollup_history)] == [len(BUCKETS) - 1] * 2


def test_an_hour_is_gathered_when_all_of_it_is_26_hours_old(desk):
    hour = start_of(desk.clock() - 28 * HOUR, HOUR)
    add(desk, *(desk.clock() - hour - minute * MINUTE for minute in range(60)))
    add(desk, 25.9 * HOUR, HOUR)
    young = minutes(desk, schema.rollups)[-2:]

    assert compacted(desk) == 59

    assert minutes(desk, schema.rollup_history) == [hour, *young]
    assert desk.rows(schema.rollup_history)[0]["count"] == 60


def test_hours_of_sixty_days_stay_and_older_ones_become_days(desk):
    day = start_of(desk.clock() - 62 * DAY, DAY)
    add(desk, *(desk.clock() - day - hour * HOUR for hour in range(1, 24)))
    young = start_of(desk.clock() - 58 * DAY, HOUR)
    add(desk, desk.clock() - young)

    compacted(desk)

    assert minutes(desk, schema.rollup_history) == [day, young]


def test_what_alerts_read_stays_in_minutes(desk):
    add(desk, *range(0, 26 * HOUR, 17 * MINUTE))
    before = minutes(desk, schema.rollups)
    assert compacted(desk) == 0
    assert minutes(desk, schema.rollup_history) + minutes(desk, schema.rollups) == before


def test_a_second_time_there_is_nothing_to_do(desk):
    add(desk, *(70 * DAY + n * 7 * MINUTE for n in range(40)), *(3 * DAY + n * 7 * MINUTE for n in range(40)))
    assert compacted(desk) > 0
    before = [desk.rows(table) for table in TABLES]
    assert compacted(desk) == 0
    assert [desk.rows(table) for table in TABLES] == before


def test_a_writer_whose_clock_is_behind_adds_to_what_is_moved_and_gathered_already(desk):
    add(desk, 50 * HOUR, 50 * HOUR + MINUTE, HOUR)
    compacted(desk)
    add(desk, 50 * HOUR, 50 * HOUR, HOUR)
    assert [each.number for each in counted(desk)] == [6]
    compacted(desk)
    assert [each.number for each in counted(desk)] == [6]
    assert desk.rows(schema.rollups) == []
    hours, minute = desk.rows(schema.rollup_history)[:-1], desk.rows(schema.rollup_history)[-1]
    assert (sum(row["count"] for row in hours), minute["count"]) == (4, 2)
    assert all(row["minute"] % HOUR == 0 for row in hours)


facts = st.tuples(
    st.sampled_from(["attempt", "delivery", "retry_delay", "accepted"]),
    st.sampled_from(["orders", "crm"]),
    st.sampled_from(["http_503", "timeout"]),
    st.floats(0, 100_000, allow_nan=False),
)
ages = st.one_of(
    st.floats(-10 * MINUTE, 2 * HOUR),
    st.floats(22 * HOUR, 30 * HOUR),
    st.floats(59 * DAY, 63 * DAY),
    st.just(2000 * DAY),
)


@settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    history=st.lists(st.tuples(ages, st.lists(facts, min_size=1, max_size=6)), max_size=25),
    limit=st.integers(1, 9),
    window=st.sampled_from([10 * MINUTE, 2 * HOUR, 24 * HOUR]),
)
def test_no_sum_ever_changes_not_even_by_its_last_digit(desk, history, limit, window):
    """Also between two transactions: there every reader, and whoever comes after a kill, finds the store."""
    desk.write(empty)
    now = desk.clock()
    for age, told in history:
        desk.write(count, now - age, told)

    def seen():
        return by_label(desk), counted(desk), desk.read(read_activity, now=now, window=window)

    before = seen()
    while desk.write(move, now=now, limit=limit):
        assert seen() == before
    for span in desk.read(find_spans, now=now):
        while desk.write(gather, span, limit=limit):
            assert seen() == before

    assert desk.read(find_spans, now=now) == []
    assert all(minute >= now - 6 * MINUTE for minute in minutes(desk, schema.rollups))
    for minute in minutes(desk, schema.rollup_history):
        size = DAY if now - minute > 62 * DAY else HOUR if now - minute > 27 * HOUR else MINUTE
        assert minute % size == 0


@pytest.mark.parametrize("table", [schema.rollups, schema.rollup_history], ids=["moving", "gathering"])
def test_killed_half_way_the_next_one_goes_on(desk, monkeypatch, table):
    add(desk, *(50 * HOUR + n * MINUTE for n in range(50)))
    before = by_label(desk)
    if table is schema.rollup_history:
        desk.write(move, now=desk.clock(), limit=1_000)
    monkeypatch.setattr(counter_compaction, "ROWS_AT_ONCE", 10)

    write = desk.store.write
    transactions = 0

    async def write_until_killed(operation, *args, **kwargs):
        nonlocal transactions
        transactions += operation in (move, gather)
        if transactions > 3:
            raise asyncio.CancelledError
        return await write(operation, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "write", write_until_killed)
        with pytest.raises(asyncio.CancelledError):
            compacted(desk)
    assert 3 < len(desk.rows(table)) < 50
    assert by_label(desk) == before
    compacted(desk)
    assert by_label(desk) == before
    assert desk.rows(schema.rollups) == []
    assert all(minute % HOUR == 0 for minute in minutes(desk, schema.rollup_history))


@pytest.mark.parametrize("table", ["rollup_totals", "rollup_history"])
def test_what_fails_within_a_transaction_leaves_all_as_it_was(desk, monkeypatch, table):
    add(desk, *(50 * HOUR + n * MINUTE for n in range(5)))
    before = [desk.rows(table) for table in TABLES]
    add_to = counter_compaction.add_to

    def add_and_fail(to, connection, rows):
        add_to(to, connection, rows)
        if to is getattr(schema, table):
            raise KeyError

    monkeypatch.setattr(counter_compaction, "add_to", add_and_fail)
    with pytest.raises(KeyError):
        compacted(desk)
    assert [desk.rows(table) for table in TABLES] == before


def test_two_at_once_beside_writers_of_old_and_new_minutes_lose_and_double_nothing(
    desk, open_desk, store_url, monkeypatch
):
    """Nor does anyone who reads meanwhile see a counter fall, and nobody runs into a deadlock, to be mended by a retry."""
    monkeypatch.setattr("resonant.store.engine.postgresql._TRY_AGAIN", ())
    monkeypatch.setattr(counter_compaction, "ROWS_AT_ONCE", 7)
    desks = [desk, *(open_desk(store_url) for _ in range(4))]
    rng = random.Random(5)
    told = [("attempt", "orders", code, 0.3) for code in ("http_503", "timeout", "http_500")]
    add(desk, *(50 * HOUR + n * MINUTE for n in range(60)), facts=told)
    hour = start_of(desk.clock() - 51 * HOUR, HOUR)
    # Also the start of an hour, which others gather into.
    old = [desk.clock() - hour, *(rng.uniform(49 * HOUR, 52 * HOUR) for _ in range(20))]
    written = [*old, *[0] * 10, *(rng.uniform(0, 20 * MINUTE) for _ in range(30))]
    seen = []

    async def all_at_once():
        async def write(each):
            for age in written:
                await each.store.write(count, each.clock() - age, told)

        async def compact_often(each):
            for _ in range(8):
                await compact(each.store)

        async def watch(each):
            while True:
                seen.append((await each.store.read(read_totals, now=0)).counted)

        watching = asyncio.create_task(watch(desks[4]))
        await asyncio.gather(*map(compact_often, desks[:2]), *map(write, desks[2:4]))
        watching.cancel()
        await asyncio.wait([watching])

    desk.run(all_at_once())

    expected = 60 + 2 * len(written)
    at_the_end = {each[:6]: each[6:] for each in counted(desk)}
    assert {number for number, _ in at_the_end.values()} == {expected}
    assert {seconds for _, seconds in at_the_end.values()} == {expected * round(0.3 * 2**16) / 2**16}
    assert len(seen) > 10
    assert_no_counter_fell([*seen, counted(desk)])
    compacted(desk)
    assert desk.read(find_spans, now=desk.clock()) == []
    assert len(by_label(desk)[1]) == len(told)
    assert {number for number, _ in by_label(desk)[1].values()} == {expected}


def test_one_that_moves_what_another_gathers_never_deadlocks(open_desk, postgresql_url, monkeypatch):
    """The one goes from the start of an hour to its end, the other back from all of it to its start."""
    monkeypatch.setattr("resonant.store.engine.postgresql._TRY_AGAIN", ())
    first, second = (open_desk(postgresql_url) for _ in range(2))
    hour = start_of(first.clock() - 50 * HOUR, HOUR)

    def count_hour(connection):
        for minute in range(60):
            count(connection, hour + minute * MINUTE, [("attempt", "orders", "http_503", 0.3)])

    async def move_and_gather():
        for _ in range(20):
            await first.store.write(count_hour)
            await asyncio.gather(
                first.store.write(move, now=first.clock(), limit=1_000),
                second.store.write(gather, Span(hour, hour + HOUR), limit=1_000),
            )

    first.run(move_and_gather())
    assert [each.number for each in counted(first)] == [20 * 60]


def test_a_worker_that_does_not_commit_blocks_no_compaction(open_desk, postgresql_url):
    """As where its transaction goes on for an hour, with the counters of its minute locked."""
    desk = open_desk(postgresql_url)
    desk.enqueue("evt_1", desk.make("evt_2", event_type="order.refunded"))
    desk.fold()

    def count(connection):
        tally = Tally(desk.clock())
        tally.add("accepted", "orders", "order.paid", "accepted")
        tally.settle(connection)

    async def accept_slowly():
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(count)
            desk.clock.advance(HOUR)
            await asyncio.wait_for(compact(desk.store), 10)
            return await desk.store.read(lambda connection: connection.execute(select(schema.rollups)).all())

    [held] = desk.run(accept_slowly())
    assert held.event_type == "order.paid"
    assert [each.number for each in counted(desk)] == [3]
    compacted(desk)
    assert desk.rows(schema.rollups) == []
    assert [each.number for each in counted(desk)] == [3]


def assert_no_counter_fell(seen):
    """Compare each with the one before."""
    told = [{each[:6]: each[6:] for each in counters} for counters in seen]
    for before, after in pairwise(told):
        for key, (number, seconds) in before.items():
            assert after[key][0] >= number
            assert after[key][1] >= seconds


def test_a_span_ends_where_the_next_one_begins(desk):
    hour = start_of(desk.clock() - 60 * HOUR, HOUR)
    add(desk, desk.clock() - hour - HOUR, desk.clock() - hour - HOUR + 60)
    desk.write(move, now=desk.clock(), limit=10)
    assert desk.read(find_spans, now=desk.clock()) == [Span(hour, hour + HOUR)]
