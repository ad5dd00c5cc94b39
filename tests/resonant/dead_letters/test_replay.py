"""A replay: what it would take, what it takes, and at which pace."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resonant.dead_letters.replay import (
    SLOW_START_SECONDS,
    Pace,
    ReplayRequest,
    cancel,
    plan,
    take_dead_letters,
)
from resonant.delivery.retry import GiveUp
from resonant.errors import EmptySelection, StoreUnavailable
from resonant.events import Attempt, Event
from resonant.store import Outcome
from resonant.store.audit import audited, read_audit
from resonant.store.views.selection import Selection
from support.examples import examples
from support.stores import opened

EVERYTHING = {"selection": Selection(), "everything": True}


async def die(store, leases, *, category="transient"):
    await store.begin(leases)
    reason = "permanent" if category == "permanent" else "exhausted"
    outcomes = []
    for lease in leases:
        attempt = Attempt(lease.attempts + 1, lease.round, store.clock(), 0.1, "failed", category=category)
        outcomes.append(Outcome(lease, attempt, GiveUp(reason)))
    assert len(await store.record(outcomes)) == len(leases)
    store.clock.advance(1)


async def dead(store, *ids, category="transient"):
    await store.enqueue([Event(id=each, type="t", source="/s", data=None) for each in ids], "orders")
    await die(store, await store.claim("orders", owner="w", limit=1_000), category=category)


async def taken(store, request):
    async with audited(store, who="x", action="replay", selection={}) as audit_id:
        batches = take_dead_letters(store, request, owner="r", audit_id=audit_id)
        return [lease.event.id async for batch in batches for lease in batch]


async def test_a_store_that_is_away_for_a_moment_is_waited_for(sqlite_url):
    async with opened(sqlite_url) as store:
        await dead(store, "evt_1")
        write_leases, failures = store.write_leases, [StoreUnavailable("away")]

        async def write_leases_later(*args, **options):
            if failures:
                raise failures.pop()
            return await write_leases(*args, **options)

        store.write_leases = write_leases_later
        assert await taken(store, ReplayRequest(**EVERYTHING)) == ["evt_1"]


@pytest.mark.parametrize("everything", [False, True])
def test_an_empty_selection_is_refused_unless_everything_is_meant(everything):
    if everything:
        ReplayRequest(Selection(), everything=True)
        return
    with pytest.raises(EmptySelection, match="selection is empty"):
        ReplayRequest(Selection())


async def test_the_plan_says_what_goes_and_what_is_left_out_and_changes_nothing(store_url):
    async with opened(store_url) as store:
        await dead(store, "evt_1", "evt_2", "evt_3")
        await dead(store, "evt_bad", category="permanent")
        before = await store.status()
        found = await plan(store, ReplayRequest(**EVERYTHING, limit=2))
        assert (found.selected, found.permanent, found.beyond_limit) == (2, 1, 1)
        found = await plan(store, ReplayRequest(**EVERYTHING, include_permanent=True))
        assert (found.selected, found.permanent, found.beyond_limit) == (4, 0, 0)
        assert await store.status() == before


@pytest.mark.parametrize(("limit", "count"), [(None, 250), (120, 120)])
async def test_all_that_is_selected_is_taken_up_to_the_limit_and_once(store_url, limit, count):
    async with opened(store_url) as store:
        await dead(store, *(f"evt_{number:03}" for number in range(250)))
        found = await taken(store, ReplayRequest(**EVERYTHING, limit=limit))
        assert found == [f"evt_{number:03}" for number in range(count)]
        assert (await store.status()).dead_letter == 250 - count


async def test_a_dead_letter_that_dies_again_is_not_taken_again(store_url):
    async with opened(store_url) as store:
        await dead(store, *(f"evt_{number}" for number in range(150)))
        batches = 0
        async with audited(store, who="x", action="replay", selection={}) as audit_id:
            async for leases in take_dead_letters(
                store, ReplayRequest(**EVERYTHING), owner="r", audit_id=audit_id
            ):
                batches += 1
                await die(store, leases)
        [entry] = await store.read(read_audit)
        assert (entry.count, entry.ended_at is None) == (150, False)
        assert batches == 2
        assert {dead_letter.replays for dead_letter in await store.dead_letters()} == {1}


async def test_two_replays_at_once_take_other_dead_letters(store_url):
    async with opened(store_url) as one, opened(store_url) as other:
        await dead(one, *(f"evt_{number}" for number in range(500)))
        other.clock.advance(1)
        request = ReplayRequest(**EVERYTHING)
        found = await asyncio.gather(taken(one, request), taken(other, request))
        assert len(found[0] + found[1]) == len({*found[0], *found[1]}) == 500


async def test_a_cancellation_goes_through_all_of_them_and_leaves_an_audit_row(store_url):
    async with opened(store_url) as store:
        events = [Event(id=f"evt_{n}", type="t", source="/s", data=None) for n in range(1_200)]
        await store.enqueue(events, "orders")
        assert await cancel(store, Selection(endpoint="orders"), who="Zoë") == 1_200
        [entry] = await store.read(read_audit)
        assert (entry.who, entry.action, entry.count) == ("Zoë", "cancel", 1_200)
        assert entry.selection == {"endpoint": "orders"}
        assert (await store.status()).balanced


def sent_at(rate, seconds, *, late=()):
    """Ask as a replay does, with some of the pauses longer than asked; return when each dead letter was sent."""
    pace, now, sent, delays = Pace(rate), 0.0, [], iter(late)
    while now < seconds:
        sent += [now] * pace.take(now)
        now += pace.pause() + next(delays, 0.0)
    return sent


rates = st.floats(0.5, 2_000)


@settings(deadline=None, max_examples=examples(25))
@given(rates, st.lists(st.floats(0, 3), max_size=50))
def test_no_second_has_more_than_a_fifth_above_the_rate_however_late_we_are(rate, late):
    sent = sent_at(rate, 25, late=late)
    for index, at in enumerate(sent):
        assert bisect_left(sent, at + 1 - 1e-6) - index <= max(math.ceil(rate) + 1, rate * 1.2)


@settings(deadline=None, max_examples=examples(25))
@given(rates)
def test_after_the_slow_start_the_rate_is_kept(rate):
    sent = [at for at in sent_at(rate, SLOW_START_SECONDS + 60) if at >= SLOW_START_SECONDS]
    assert abs(len(sent) - 60 * rate) <= max(2, 0.05 * 60 * rate)


@settings(deadline=None, max_examples=examples(25))
@given(rates)
def test_the_start_is_slow_and_grows(rate):
    sent = sent_at(rate, SLOW_START_SECONDS)
    per_second = [sum(second <= at < second + 1 for at in sent) for second in range(10)]
    assert per_second[0] <= 0.2 * rate + 1
    assert sum(per_second[:5]) <= 0.2 * 10 * rate + 1
    assert all(later >= earlier - 2 for earlier, later in pairwise(per_second))
    assert abs(len(sent) - 5.5 * rate) <= 0.05 * 5.5 * rate + 2
