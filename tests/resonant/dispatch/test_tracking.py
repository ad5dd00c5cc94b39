"""Tracking a command's own deliveries, whichever process sends them."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from resonant.dead_letters.purge import purge_batch
from resonant.delivery.retry import GiveUp, Park, Retry, RetryPolicy
from resonant.dispatch import tracking
from resonant.dispatch.limits import WAIT_SECONDS
from resonant.dispatch.tracking import Tracker
from resonant.events import Attempt, Event
from resonant.gate.pausing import pause
from resonant.store import Outcome
from resonant.store.shared import drains
from resonant.store.shared.gates import FailingType, Gate, GateChange, change_gate, read_gates
from resonant.store.views.dead_letters import Position
from resonant.store.views.standing import standing
from resonant.testing import FixedClock
from support.dispatching import dispatching, emit, opened, succeed
from support.simulated_time import clock_from

START = 1_700_000_000.0
TWICE = RetryPolicy(max_attempts=2, base=0.01, jitter="none")


async def enqueue(store, *ids):
    """Store events with these ids, and return the keys of their deliveries in the same order."""
    accepted = await store.enqueue(
        [Event(id=each, type="t", source="/s", data=None) for each in sorted(ids)], "orders"
    )
    return accepted.delivery_ids


async def another_sends(store, number, decision=None, *, attempts=1, code="x"):
    """Let another worker attempt the longest due deliveries."""
    leases = await store.claim("orders", owner="another", limit=number)
    assert len(leases) == number
    await another_attempts(store, leases, decision, attempts=attempts, code=code)


async def another_attempts(store, leases, decision=None, *, attempts=1, code="x"):
    for left in reversed(range(attempts)):
        await store.begin(leases)
        decided = Retry(1.0, store.clock() + 1) if left else decision
        result = "delivered" if decided is None else "failed"
        facts = {"duration": 0.1, "result": result, "category": "transient", "code": code}
        made = [(each, Attempt(each.attempts + 1, 1, store.clock(), **facts)) for each in leases]
        await store.record([Outcome(lease, attempt, decided) for lease, attempt in made])
        leases = [
            replace(each, attempts=each.attempts + 1, round_attempts=each.round_attempts + 1)
            for each in leases
        ]


@asynccontextmanager
async def tracked(url, *names, **options):
    """Open a store on a fixed clock, with a tracker of stored events."""
    async with opened(url, clock=FixedClock(START)) as store:
        tracker = Tracker(store, **options)
        tracker.add(await enqueue(store, *names))
        yield store, tracker


async def test_enqueueing_reports_the_deliveries_that_it_accepted_and_those_known_before(store_url):
    async with opened(store_url, clock=FixedClock(START)) as store:
        first = await enqueue(store, "a", "b")
        again = await enqueue(store, "b", "c")
        assert len(first) == len(again) == 2
        assert len(set(first) & set(again)) == 1
        elsewhere = await store.enqueue([Event(id="a", type="t", source="/s", data=None)], "others")
        assert not set(elsewhere.delivery_ids) & {*first, *again}


async def test_a_tracker_counts_the_deliveries_that_another_process_sends(store_url):
    async with tracked(store_url, *(f"e{n}" for n in range(8))) as (store, tracker):
        await tracker.look()
        assert tracker.outcomes.unfinished == 8
        await another_sends(store, 2)
        await another_sends(store, 1, attempts=2)
        await another_sends(store, 1, GiveUp("permanent"))
        for wait in (WAIT_SECONDS, WAIT_SECONDS + 1):
            await another_sends(store, 1, Park(wait, START + wait))
        await another_sends(store, 1, Retry(9.0, START + 9))
        await tracker.look()
        assert str(tracker.outcomes) == (
            "3 delivered, 1 retried, 1 parked, 1 dead-lettered (1 permanent), 3 not finished yet"
        )
        assert not tracker.is_settled, "one is parked briefly, one waits in a process, one was never tried"


async def test_a_parked_delivery_that_is_sent_later_counts_by_its_outcome(store_url):
    async with tracked(store_url, "a", "b", "c") as (store, tracker):
        await another_sends(store, 3, Park(60.0, START + 60))
        await tracker.look()
        assert tracker.is_settled
        assert tracker.outcomes.parked == 3
        store.clock.advance(61)
        await another_sends(store, 1)
        await tracker.finish()
        assert str(tracker.outcomes) == "1 delivered, 1 retried, 2 parked, 0 dead-lettered"


async def test_parked_deliveries_are_described_with_their_failures_and_the_earliest_retry(
    store_url, monkeypatch
):
    monkeypatch.setattr(tracking, "SLICE", 1)
    async with tracked(store_url, "a", "b", "c") as (store, tracker):
        await tracker.finish()
        assert tracker.parked == ""
        for code, wait in (("http_503", 900.0), ("connect_refused", 300.0), ("http_503", 600.0)):
            await another_sends(store, 1, Park(wait, START + wait), code=code)
        await tracker.look()
        await store.write(drains.beat, None, owner="o", endpoint=drains.NO_DRAIN, clock=store.clock)

        await tracker.finish()

        said = "3 deliveries wait for a retry; last failure: http_503, connect_refused; the next is due in 5 min; "
        assert tracker.parked == f"{said}no drain runs: start `resonant up`, or run `resonant emit` then"
        await store.write(drains.beat, None, owner="d", endpoint="orders", clock=store.clock)
        await tracker.finish()
        assert tracker.parked == f"{said}a running drain sends what is due"


async def test_deliveries_that_a_gate_holds_for_long_are_settled_until_they_are_sent(store_url):
    async with tracked(store_url, "a", "b", "c", "d") as (store, tracker):
        await another_sends(store, 1, Park(60.0, START + 60))
        await pause(store, "orders", who="ann")
        await tracker.look()
        assert tracker.is_settled
        assert str(tracker.outcomes) == "0 delivered, 0 retried, 1 parked, 0 dead-lettered, 3 held"
        assert tracker.outcomes.undelivered == "1 parked, 3 held"
        assert tracker.outcomes.held == 3

        await another_sends(store, 1)
        await tracker.finish()
        assert str(tracker.outcomes) == "1 delivered, 0 retried, 1 parked, 0 dead-lettered, 2 held"
        assert tracker.paused == {"orders"}


async def test_deliveries_that_a_gate_holds_briefly_are_waited_for(store_url):
    async with tracked(store_url, "a") as (store, tracker):
        now = (await store.read(read_gates)).at
        probing = Gate("orders", "probing", since=now, failing_since=now, probe_at=now + 1)
        await store.write(change_gate, GateChange(Gate("orders"), probing))
        await tracker.look()
        assert not tracker.is_settled
        probing = replace(probing, epoch=1, failing_since=now - 31)
        await store.write(change_gate, GateChange(probing, probing))
        await tracker.look()
        assert tracker.is_settled


async def test_deliveries_of_an_earlier_run_are_counted_separately(store_url):
    async with opened(store_url, clock=FixedClock(START)) as store:
        await enqueue(store, "a", "b")
        await another_sends(store, 1)
        store.clock.advance(10)
        tracker = Tracker(store)
        tracker.add(await enqueue(store, "a", "b", "c"))
        await another_sends(store, 2)
        await tracker.look()
        assert str(tracker.outcomes) == (
            "2 delivered, 0 retried, 0 parked, 0 dead-lettered, 1 delivered before"
        )


async def test_the_dlq_command_starts_at_the_run_or_at_an_earlier_dead_letter(store_url):
    async with opened(store_url, clock=FixedClock(START)) as store:
        ids = await enqueue(store, "a", "b")
        await another_sends(store, 1, GiveUp("permanent"))
        store.clock.advance(10)
        await another_sends(store, 1, GiveUp("permanent"))
        tracker = Tracker(store, since=START + 5)
        tracker.add(ids[1:])
        await tracker.look()
        shown = tracker.dead_letters_shown_by("orders")
        assert shown == "resonant dlq --endpoint orders --since 2023-11-14T22:13:25.000Z"
        tracker.add(ids[:1])
        await tracker.look()
        assert tracker.dead_letters_shown_by(None) == "resonant dlq --since 2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize(("failing", "held"), [("t", 2), ("another", 0)])
async def test_deliveries_are_held_if_their_type_has_failed_for_long(sqlite_url, failing, held):
    async with tracked(sqlite_url, "a", "b") as (store, tracker):
        types = (FailingType(failing, START, "http 503", START + 1, START),)
        change = GateChange(Gate("orders"), Gate("orders", failing=types), at=START)
        assert await store.write(change_gate, change)
        await tracker.look()
        assert tracker.outcomes.held == 0
        store.clock.advance(60)
        await tracker.look()
        assert (tracker.outcomes.held, tracker.is_settled) == (held, held == 2)


async def test_deliveries_of_an_endpoint_that_cannot_be_opened_are_held(store_url):
    async with tracked(store_url, "a", "b") as (store, tracker):
        await another_sends(store, 1, Park(60.0, START + 60))
        tracker.unavailable = {"orders": "no endpoint is named 'orders'"}
        await tracker.look()
        assert tracker.is_settled
        assert str(tracker.outcomes) == "0 delivered, 0 retried, 1 parked, 0 dead-lettered, 1 held"


async def test_a_delivery_given_twice_counts_once_and_a_purged_one_is_counted_as_purged(store_url):
    async with opened(store_url, clock=FixedClock(START)) as store:
        ids = await enqueue(store, "a", "b")
        tracker = Tracker(store)
        tracker.add([*ids, *ids])
        assert tracker.outcomes.total == 2
        await another_sends(store, 2)
        await store.write(purge_batch, [Position(0.0, ids[0])], [], now=store.clock())
        await tracker.look()
        assert str(tracker.outcomes) == "1 delivered, 0 retried, 0 parked, 0 dead-lettered, 1 purged"


async def test_a_poll_reads_a_bounded_number_of_unfinished_deliveries(sqlite_url, monkeypatch):
    monkeypatch.setattr(tracking, "SLICE", 2)
    monkeypatch.setattr(tracking, "_MOST_UNSETTLED", 4)

    async with tracked(sqlite_url, *(f"e{n:02}" for n in range(20))) as (store, tracker):
        read = []

        def counted(connection, ids, **options):
            read.extend(ids)
            return standing(connection, ids, **options)

        monkeypatch.setattr(tracking, "standing", counted)
        await tracker.look()
        assert len(read) == 4
        await another_sends(store, 15)
        await tracker.look()
        assert tracker.outcomes.settled == 15
        await another_sends(store, 5)
        await tracker.finish()
        assert (tracker.outcomes.delivered, tracker.is_settled) == (20, True)


async def test_frequent_polls_are_throttled(sqlite_url, monkeypatch):
    monkeypatch.setattr(tracking, "_SHORTEST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(tracking, "_LONGEST_PAUSE_SECONDS", 3600.0)
    async with tracked(sqlite_url, "a") as (store, tracker):
        await tracker.look_if_due()
        await another_sends(store, 1)
        await tracker.look_if_due()
        assert tracker.outcomes.delivered == 0


@asynccontextmanager
async def emitting(url, send, *, policy=TWICE):
    """An emission of our own worker; yields it and a tracker of its own deliveries."""
    async with (
        opened(url, clock=clock_from(START)) as store,
        dispatching(store, send, policy=policy, owner="ours") as dispatcher,
    ):
        yield dispatcher, Tracker(store)


def run_for_its_own(dispatcher, tracker):
    return asyncio.wait_for(emit(dispatcher, endpoint="orders", own=tracker), 600)


async def test_an_emission_waits_for_its_own_deliveries_that_another_worker_sends(sqlite_url):
    async with emitting(sqlite_url, succeed) as (dispatcher, tracker):
        store = dispatcher.store
        tracker.add(await enqueue(store, "a", "b"))
        leases = await store.claim("orders", owner="another", limit=2)
        running = asyncio.create_task(run_for_its_own(dispatcher, tracker))
        await asyncio.sleep(30)
        assert not running.done()
        await another_attempts(store, leases)
        assert (await running).delivered == 0
        assert tracker.outcomes.delivered == 2


async def test_an_emission_sends_its_own_deliveries_when_the_worker_that_held_them_is_gone(sqlite_url):
    async with emitting(sqlite_url, succeed) as (dispatcher, tracker):
        tracker.add(await enqueue(dispatcher.store, "a", "b"))
        await dispatcher.store.claim("orders", owner="killed", limit=2)
        assert (await run_for_its_own(dispatcher, tracker)).delivered == 2
        assert tracker.outcomes.delivered == 2


@pytest.mark.parametrize("held_by_another", [False, True])
async def test_an_emission_does_not_wait_for_other_deliveries(sqlite_url, held_by_another):
    async with emitting(sqlite_url, succeed) as (dispatcher, tracker):
        if held_by_another:
            await enqueue(dispatcher.store, "theirs")
            await dispatcher.store.claim("orders", owner="another", limit=1)
        tracker.add(await enqueue(dispatcher.store, "a"))
        began_at = dispatcher.store.clock()
        await run_for_its_own(dispatcher, tracker)
        assert dispatcher.store.clock() - began_at < 30
        assert tracker.outcomes.delivered == 1


async def test_an_emission_ends_when_its_own_deliveries_are_settled_even_while_it_retries_others(sqlite_url):
    tried = []

    async def send(event):
        tried.append(event.id)
        if event.id == "theirs":
            raise ConnectionError

    policy = RetryPolicy(max_attempts=100, base=0.2, factor=1, jitter="none")
    async with emitting(sqlite_url, send, policy=policy) as (dispatcher, tracker):
        await enqueue(dispatcher.store, "theirs")
        tracker.add(await enqueue(dispatcher.store, "a"))
        await run_for_its_own(dispatcher, tracker)
        assert tracker.outcomes.delivered == 1
    async with opened(sqlite_url) as store:
        status = await store.status()
        assert (status.retrying, status.in_flight) == (1, 0)
    assert tried.count("theirs") < 100
