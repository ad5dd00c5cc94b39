"""Old minutes become hours, and old hours days; what they add up to is the same at every moment."""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from resonant.store import compaction, schema
from resonant.store.compaction import Span, compact, find_spans, gather
from resonant.store.measuring import read_totals
from resonant.store.rollups import BUCKETS, Tally

MINUTE, HOUR, DAY = 60, 3600, 86_400


def count(connection, now, facts):
    tally = Tally(now)
    for measure, endpoint, code, seconds in facts:
        tally.add(measure, endpoint, "order.paid", "failed", "transient", code, seconds=seconds)
    tally.write(connection)


def add(desk, *ages, facts=(("attempt", "orders", "http_503", 0.3),)):
    """Count these facts so many seconds ago, as often as ages are given."""
    for age in ages:
        desk.write(count, desk.clock() - age, facts)


def sums(rows):
    found = defaultdict(lambda: [0, 0.0])
    for row in rows:
        key = tuple(
            row[name] for name in ("measure", "endpoint", "event_type", "result", "category", "code", "le")
        )
        found[key][0] += row["count"]
        found[key][1] += row["total"]
    return {key: tuple(each) for key, each in found.items()}


def minutes(desk):
    return [row["minute"] for row in desk.rows(schema.rollups)]


def start_of(moment, size):
    return int(moment // size) * size


def compacted(desk):
    return desk.run(compact(desk.store))


def test_minutes_of_two_days_stay_and_older_ones_become_hours(desk):
    hour = start_of(desk.clock() - 50 * HOUR, HOUR)
    add(desk, *(desk.clock() - hour - minute * MINUTE for minute in range(60)))
    add(desk, 47 * HOUR, 0)
    young = minutes(desk)[-2:]

    assert compacted(desk) == 59

    assert minutes(desk) == [hour, *young]
    assert desk.rows(schema.rollups)[0]["count"] == 60


def test_hours_of_sixty_days_stay_and_older_ones_become_days(desk):
    day = start_of(desk.clock() - 62 * DAY, DAY)
    add(desk, *(desk.clock() - day - hour * HOUR for hour in range(1, 24)))
    young = start_of(desk.clock() - 58 * DAY, HOUR)
    add(desk, desk.clock() - young)

    compacted(desk)

    assert minutes(desk) == [day, young]


def test_what_alerts_read_stays_in_minutes(desk):
    add(desk, *range(0, 26 * HOUR, 17 * MINUTE))
    before = minutes(desk)
    assert compacted(desk) == 0
    assert minutes(desk) == before


def test_a_second_time_there_is_nothing_to_do(desk):
    add(desk, *(70 * DAY + n * 7 * MINUTE for n in range(40)), *(3 * DAY + n * 7 * MINUTE for n in range(40)))
    assert compacted(desk) > 0
    before = desk.rows(schema.rollups)
    assert compacted(desk) == 0
    assert desk.rows(schema.rollups) == before


def test_a_writer_whose_clock_is_behind_adds_to_an_hour_that_is_gathered_already(desk):
    add(desk, 50 * HOUR, 50 * HOUR + MINUTE)
    compacted(desk)
    add(desk, 50 * HOUR, 50 * HOUR)
    compacted(desk)
    assert sum(row["count"] for row in desk.rows(schema.rollups)) == 4
    assert all(minute % HOUR == 0 for minute in minutes(desk))


facts = st.tuples(
    st.sampled_from(["attempt", "delivery", "retry_delay", "accepted"]),
    st.sampled_from(["orders", "crm"]),
    st.sampled_from(["http_503", "timeout"]),
    st.floats(0, 100_000, allow_nan=False),
)
ages = st.one_of(
    st.floats(0, 50 * HOUR),
    st.floats(47 * HOUR, 75 * HOUR),
    st.floats(59 * DAY, 63 * DAY),
    st.just(2000 * DAY),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=st.lists(st.tuples(ages, st.lists(facts, min_size=1, max_size=6)), max_size=25),
    limit=st.integers(1, 9),
)
def test_no_sum_ever_changes_not_even_by_its_last_digit(desk, history, limit):
    """Also between two transactions: there every reader, and whoever comes after a kill, finds the store."""
    desk.write(lambda connection: connection.execute(delete(schema.rollups)))
    now = desk.clock()
    for age, told in history:
        desk.write(count, now - age, told)
    before = sums(desk.rows(schema.rollups))
    counted = sorted(desk.read(read_totals, now=now).counted)

    for span in desk.read(find_spans, now=now):
        while desk.write(gather, span, limit=limit):
            assert sums(desk.rows(schema.rollups)) == before
            assert sorted(desk.read(read_totals, now=now).counted) == counted

    assert desk.read(find_spans, now=now) == []
    for row in desk.rows(schema.rollups):
        size = DAY if now - row["minute"] > 62 * DAY else HOUR if now - row["minute"] > 49 * HOUR else MINUTE
        assert row["minute"] % size == 0


def test_killed_half_way_the_next_one_goes_on(desk, monkeypatch):
    monkeypatch.setattr(compaction, "_ROWS_AT_ONCE", 10)
    add(desk, *(50 * HOUR + n * MINUTE for n in range(50)))
    before = sums(desk.rows(schema.rollups))

    async def kill():
        task = asyncio.create_task(compact(desk.store))
        while (
            len(await desk.store.read(lambda connection: connection.execute(select(schema.rollups)).all()))
            > 30
        ):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    desk.run(kill())
    assert sums(desk.rows(schema.rollups)) == before
    compacted(desk)
    assert sums(desk.rows(schema.rollups)) == before
    assert all(minute % HOUR == 0 for minute in minutes(desk))


def test_what_fails_within_a_transaction_leaves_all_as_it_was(desk):
    add(desk, *(50 * HOUR + n * MINUTE for n in range(5)))
    before = desk.rows(schema.rollups)
    [span, *_] = desk.read(find_spans, now=desk.clock())

    def gather_and_fail(connection):
        assert gather(connection, span, limit=3)
        raise KeyError

    with pytest.raises(KeyError):
        desk.write(gather_and_fail)
    assert desk.rows(schema.rollups) == before


def test_two_at_once_beside_writers_of_old_and_new_minutes_lose_and_double_nothing(
    desk, open_desk, store_url, monkeypatch
):
    monkeypatch.setattr(compaction, "_ROWS_AT_ONCE", 7)
    desks = [desk, *(open_desk(store_url) for _ in range(3))]
    rng = random.Random(5)
    told = [("attempt", "orders", code, 0.3) for code in ("http_503", "timeout", "http_500")]
    add(desk, *(50 * HOUR + n * MINUTE for n in range(60)), facts=told)
    expected = 60 * len(told)
    old = [rng.uniform(49 * HOUR, 52 * HOUR) for _ in range(40)]

    async def all_at_once():
        async def write(each):
            for age in [*old, *[0] * 20]:
                await each.store.write(count, each.clock() - age, told)

        async def compact_often(each):
            for _ in range(8):
                await compact(each.store)

        await asyncio.gather(
            compact_often(desks[0]), compact_often(desks[1]), write(desks[2]), write(desks[3])
        )

    desk.run(all_at_once())
    expected += 2 * 60 * len(told)
    rows = desk.rows(schema.rollups)
    assert sum(row["count"] for row in rows) == expected
    assert sum(row["total"] for row in rows) == expected * round(0.3 * 2**16) / 2**16
    compacted(desk)
    assert desk.read(find_spans, now=desk.clock()) == []


def test_every_bucket_stays_its_own(desk):
    add(
        desk,
        50 * HOUR,
        50 * HOUR + MINUTE,
        facts=[("attempt", "orders", "", bound) for bound in BUCKETS[:-1]],
    )
    compacted(desk)
    bounds = [row["le"] for row in desk.rows(schema.rollups)]
    assert bounds == sorted(set(bounds))
    assert math.inf not in bounds


def test_a_span_ends_where_the_next_one_begins(desk):
    hour = start_of(desk.clock() - 60 * HOUR, HOUR)
    add(desk, desk.clock() - hour - HOUR, desk.clock() - hour - HOUR + 60)
    assert desk.read(find_spans, now=desk.clock()) == [Span("attempt", hour, hour + HOUR)]
