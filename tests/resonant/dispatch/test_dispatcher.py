import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import textwrap
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest

from resonant.delivery.attempt import AttemptRunner, Destination, Report
from resonant.delivery.retry import GiveUp, Park, Retry, RetryPolicy, draw_delay
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.dispatch.sender import LeaseLost
from resonant.dispatch.summary import Summary
from resonant.errors import EndpointError, StoreUnavailable, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.base import CallableSink
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.store import Store, open_store
from resonant.testing import FixedClock, Receiver, reset_before_response, respond
from support.redaction import safe_message
from support.sqlite import listening, locked
from support.waiting import until

START = 1_800_000_000.0
QUICK = RetryPolicy(max_attempts=3, base=1.0, factor=1.0, jitter="none")


@dataclass
class Scene:
    """A worker's emission, and what a test wants to see of it."""

    dispatcher: Dispatcher
    store: Store
    clock: FixedClock
    reports: list[Report] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    chunk_size: ClassVar[int] = 0

    async def emit_one(self, lease):
        """Make the attempts of a delivery; in place of waiting, the clock moves on."""
        while True:
            report = await self.dispatcher.attempt(lease.key)
            self.reports.append(report)
            if not isinstance(report.decision, Retry):
                return
            self.clock.advance(report.decision.delay)

    async def emit_chunk(self, leases):
        self.chunks.append(len(leases))
        await self.dispatcher.attempt_all(leases[0].endpoint, [lease.key for lease in leases])

    async def run(self, **options) -> Summary:
        running = self.dispatcher.run(self.emit_one, emit_chunk=self.emit_chunk, **options)
        return await asyncio.wait_for(running, 30)


@pytest.fixture(params=[0, 3], ids=["task lane", "bulk lane"], autouse=True)
def lane(request, monkeypatch):
    """Whatever is said here of an emission is said of both lanes."""
    monkeypatch.setattr(Scene, "chunk_size", request.param)


def sink_target(name, sink, **fields):
    async def close():
        return None

    def describe(error):
        return f"{type(error).__name__}: {error}"

    return Destination(
        name=name, sink=sink, **{"describe": describe, "close": close, "timeout": 15.0} | fields
    )


@asynccontextmanager
async def scene(path, *, policy=QUICK, clock=None, lease_seconds=60.0, limits=None, sinks=None, **more_sinks):
    """Open an emission with an endpoint for each sink: an async function of the event, or a whole target."""
    clock = clock or FixedClock(START)
    sinks = more_sinks if sinks is None else sinks

    async def open_destination(name):
        if name not in sinks:
            raise EndpointError(f"no endpoint is named {name!r}")
        sink = sinks[name]
        return sink if isinstance(sink, Destination) else sink_target(name, CallableSink(sink))

    store = await open_store(f"sqlite:///{path / 'r.db'}", clock=clock, lease_seconds=lease_seconds)
    try:
        attempt_runner = AttemptRunner(clock=clock, rng=random.Random(7), policy=lambda _name: policy)
        limits = replace(limits or Limits(), chunk_size=Scene.chunk_size)
        async with Dispatcher(
            store, attempt_runner, open_destination, owner="worker", limits=limits
        ) as dispatcher:
            yield Scene(dispatcher, store, clock)
    finally:
        await store.close()


@asynccontextmanager
async def another_worker(path, *, clock, lease_seconds=60.0):
    """The store as another process sees it."""
    store = await open_store(f"sqlite:///{path / 'r.db'}", clock=clock, lease_seconds=lease_seconds)
    try:
        yield store
    finally:
        await store.close()


numbers = itertools.count()


async def enqueue(store, count=1, endpoint="orders", **options):
    events = [
        Event(type="order.paid", source="/shop", data=n, id=f"evt_{next(numbers)}") for n in range(count)
    ]
    await store.enqueue(events, endpoint, **options)
    return [event.id for event in events]


def rows(path, query):
    """Read what is committed, as another process would."""
    with contextlib.closing(sqlite3.connect(path / "r.db")) as connection:
        return connection.execute(query).fetchall()


def deliveries(path, columns):
    return rows(path, f"SELECT {columns} FROM resonant_deliveries ORDER BY id")


async def succeed(_event):
    return None


async def fail(_event):
    raise UnexpectedStatus(503)


def failing_first(times=1):
    """A sink that fails the first attempts of each event."""
    tries = Counter()

    async def send(event):
        tries[event.id] += 1
        if tries[event.id] <= times:
            raise UnexpectedStatus(503)

    return send


@pytest.fixture
def quick_look(monkeypatch):
    """What is due is looked for many times a second."""
    monkeypatch.setattr("resonant.dispatch.fetcher.POLL_SECONDS", 0.02)


class TestWhatARunDoes:
    async def test_every_delivery_that_is_due_is_emitted(self, tmp_path):
        async def send(event):
            sent.append(event.id)

        sent = []
        async with scene(tmp_path, orders=send) as worker:
            ids = await enqueue(worker.store, 300)
            summary = await worker.run()
            assert sorted(sent) == sorted(ids)
            assert (summary.delivered, summary.attempts) == (300, 300)
            assert (await worker.store.status()).balanced
        assert Counter(deliveries(tmp_path, "status, attempts")) == {("delivered", 1): 300}

    async def test_a_failure_is_retried_until_it_is_delivered(self, tmp_path):
        async with scene(tmp_path, orders=failing_first(2)) as worker:
            await enqueue(worker.store, 5)
            summary = await worker.run()
            assert (summary.delivered, summary.retried, summary.attempts) == (5, 5, 15)
        assert rows(tmp_path, "SELECT number, count(*) FROM resonant_attempts GROUP BY number") == [
            (1, 5),
            (2, 5),
            (3, 5),
        ]

    async def test_a_delivery_ends_as_its_last_decision_says(self, tmp_path):
        async def send(event):
            raise answers[event.body]

        answers = {
            b"0": UnexpectedStatus(400),
            b"1": UnexpectedStatus(503),
            b"2": UnexpectedStatus(503, "600"),
            b"3": UnexpectedStatus(503, "100000"),
        }
        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store, 4)
            summary = await worker.run()
            assert summary.dead_letters == {"permanent": 1, "exhausted": 1, "expired": 1}
            assert (summary.parked, summary.delivered) == (1, 0)
            assert str(summary) == (
                "0 delivered, 1 retried, 1 parked, 3 dead-lettered (1 exhausted, 1 expired, 1 permanent)"
            )
        assert deliveries(tmp_path, "status, reason, lease_owner") == [
            ("dead_letter", "permanent", None),
            ("dead_letter", "exhausted", None),
            ("retrying", None, None),
            ("dead_letter", "expired", None),
        ]

    async def test_of_several_endpoints_the_one_that_is_named_is_served(self, tmp_path):
        async with scene(tmp_path, orders=succeed, others=succeed) as worker:
            await enqueue(worker.store, endpoint="orders")
            await enqueue(worker.store, endpoint="others")
            await worker.run(endpoint="others")
        assert deliveries(tmp_path, "endpoint, status") == [("orders", "pending"), ("others", "delivered")]

    async def test_an_endpoint_that_answers_410_is_flagged_gone(self, tmp_path):
        async def gone(_event):
            raise UnexpectedStatus(410)

        async with scene(tmp_path, orders=gone, others=succeed) as worker:
            await enqueue(worker.store, endpoint="orders")
            await enqueue(worker.store, endpoint="others")
            await worker.run()
        assert rows(tmp_path, "SELECT name, gone_at FROM resonant_endpoints ORDER BY name") == [
            ("orders", START),
            ("others", None),
        ]

    async def test_each_retry_is_drawn_from_the_delay_before_it(self, tmp_path):
        jittery = RetryPolicy(jitter="decorrelated", base=1.0, max_attempts=6, park_after=1e6)

        async with scene(tmp_path, policy=jittery, orders=fail) as worker:
            await enqueue(worker.store)
            await worker.run()
            *delays, last = [report.attempt.delay for report in worker.reports]

        rng, expected = random.Random(7), []
        for number in range(1, 6):
            before = expected[-1] if expected else None
            expected.append(draw_delay(jittery, number, rng, last_delay=before))
        assert delays == expected
        assert last is None

    async def test_many_events_share_few_transactions(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 100 * Scene.chunk_size)

        count = Counter()
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store, 1000)
            start = time.monotonic()
            with listening("commit", lambda c: count.update([c.get_execution_options().get("write")])):
                await worker.run()
            seconds = time.monotonic() - start
        # 20 batches of begins with the outcomes of those before them, as many of outcomes alone, 10 claims
        assert count[True] < 60
        # four polls a second and one check for acceptances; one of each at the start, and a poll at the end
        assert count[None] <= 5 * seconds + 3

    async def test_there_are_always_some_claimed_ahead_and_they_are_claimed_many_at_once(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("resonant.dispatch.fetcher.POLL_SECONDS", 3600)

        def note_claims(_connection, _cursor, statement, *_):
            claims.extend(["claim"] * ("UPDATE" in statement and "RETURNING" in statement))

        sent, claims = [], []

        async def send(event):
            if event.id == first:
                await until(lambda: len(sent) == 399)
            await asyncio.sleep(random.random() / 100)
            sent.append(event.id)

        async with scene(tmp_path, orders=send, limits=Limits(concurrency=20)) as worker:
            first, *_ = await enqueue(worker.store, 400)
            with listening("before_cursor_execute", note_claims):
                assert (await worker.run()).delivered == 400
        assert 10 <= len(claims) <= 20

    async def test_of_large_events_no_more_are_claimed_than_memory_has_room_for(self, tmp_path, monkeypatch):
        monkeypatch.setattr("resonant.dispatch.fetcher.MOST_BYTES", 60 * 10_000)
        monkeypatch.setattr(Scene, "chunk_size", 200 * Scene.chunk_size)

        held = []
        async with scene(tmp_path, orders=succeed, limits=Limits(concurrency=10)) as worker:
            data = "x" * 10_000
            events = [Event(type="t", source="/s", data=data, id=f"evt_{n}") for n in range(300)]
            await worker.store.enqueue(events, "orders")
            claim = worker.store.claim

            async def claim_and_count(name, **options):
                found = await claim(name, **options)
                held.append(worker.dispatcher._in_flight.busy(name) + len(found))
                return found

            worker.store.claim = claim_and_count
            assert (await worker.run()).delivered == 300
        assert 10 < max(held) <= 60

    async def test_the_endpoints_are_closed_at_the_end_even_if_one_cannot_be(self, tmp_path):
        def destination(name, error=None):
            async def close():
                closed.append(name)
                if error is not None:
                    raise error

            return sink_target(name, CallableSink(succeed), close=close)

        closed = []
        async with scene(tmp_path, a=destination("a", OSError("broken")), b=destination("b")) as worker:
            await enqueue(worker.store, endpoint="a")
            await enqueue(worker.store, endpoint="b")
            await worker.run()
            assert not closed
        assert sorted(closed) == ["a", "b"]


class TestTheBulkLane:
    """What is said of it alone."""

    @pytest.fixture(autouse=True)
    def lane(self, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 4)

    async def test_first_attempts_are_made_together_and_only_what_failed_goes_on_alone(self, tmp_path):
        async def refuse_every_third(event):
            if json.loads(event.body) % 3 == 0:
                raise UnexpectedStatus(503)

        async with scene(tmp_path, orders=refuse_every_third) as worker:
            await enqueue(worker.store, 10)
            summary = await worker.run()
        assert worker.chunks == [4, 4, 2]
        assert (summary.delivered, summary.retried, summary.dead_letters) == (6, 4, {"exhausted": 4})
        # What failed in a chunk is reported first, and not attempted again for that.
        assert Counter(report.attempt.number for report in worker.reports) == {1: 4, 2: 4, 3: 4}
        assert deliveries(tmp_path, "attempts") == [(3,) if n % 3 == 0 else (1,) for n in range(10)]

    @pytest.mark.parametrize("status", [400, 503])
    async def test_what_is_given_up_or_parked_at_once_is_reported_alone_too(self, tmp_path, status):
        async def refuse(_event):
            raise UnexpectedStatus(status)

        policy = replace(QUICK, park_after=0.5)
        async with scene(tmp_path, orders=refuse, policy=policy) as worker:
            await enqueue(worker.store, 2)
            summary = await worker.run()
        assert [type(report.decision) for report in worker.reports] == [GiveUp if status == 400 else Park] * 2
        assert (summary.parked, summary.dead_letters.total()) == ((0, 2) if status == 400 else (2, 0))
        assert summary.attempts == 2

    async def test_a_delivery_that_was_tried_before_is_not_tried_together_with_others(self, tmp_path):
        clock = FixedClock(START)
        async with scene(tmp_path, orders=succeed, clock=clock) as worker:
            await enqueue(worker.store, 6)
            async with another_worker(tmp_path, clock=clock) as store:
                leases = await store.claim("orders", owner="dead", limit=2)
                await store.begin(leases)  # and then it is killed
            clock.advance(61)
            summary = await worker.run(take_over=True)
        assert summary.delivered == 6
        assert worker.chunks == [4], "what may have crashed a worker takes no chunk with it"
        assert len(worker.reports) == 2

    async def test_a_failure_that_waits_for_its_turn_holds_up_the_claims(self, tmp_path, monkeypatch):
        async def refuse(_event):
            raise UnexpectedStatus(400)

        waiting, most = [], []

        async def emit_one(lease):
            waiting.append(lease.event.id)
            most.append(len(waiting))
            await gate.wait()
            waiting.remove(lease.event.id)
            await worker.emit_one(lease)

        gate = asyncio.Event()
        limits = Limits(concurrency=8, endpoint_concurrency=4)
        async with scene(tmp_path, orders=refuse, limits=limits) as worker:
            await enqueue(worker.store, 60)
            running = asyncio.create_task(worker.dispatcher.run(emit_one, emit_chunk=worker.emit_chunk))
            await asyncio.sleep(0.3)
            gate.set()
            assert (await running).dead_letters.total() == 60
        assert max(most) <= 4 * 4, "more than is claimed ahead of four slots"
        assert len(most) == 60

    async def test_several_endpoints_share_what_is_claimed_for_chunks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 50)

        held = []

        async def slowly(_event):
            await asyncio.sleep(0.01)

        names = [f"hooks-{n}" for n in range(9)]
        async with scene(
            tmp_path, sinks=dict.fromkeys(names, slowly), limits=Limits(concurrency=4)
        ) as worker:
            for name in names:
                await enqueue(worker.store, 60, name)
            claim = worker.store.claim

            async def claim_and_count(name, **options):
                found = await claim(name, **options)
                held.append(sum(map(worker.dispatcher._in_flight.busy, names)) + len(found))
                return found

            worker.store.claim = claim_and_count
            assert (await worker.run()).delivered == 9 * 60
        assert max(held) <= 4 * 50

    async def test_what_a_chunk_says_of_itself_counts_what_was_lost(self, tmp_path):
        done, stealing = Counter(), []

        async def steal():
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.rescue(owners=["worker"])

        async def send(_event):
            if not stealing:
                stealing.append(asyncio.create_task(steal()))
            await stealing[0]

        async def emit_chunk(leases):
            done.update(await worker.dispatcher.attempt_all("orders", [lease.key for lease in leases]))

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store, 3)
            summary = await worker.dispatcher.run(worker.emit_one, emit_chunk=emit_chunk)
        assert (done["delivered"], done["lost"]) == (0, 3)
        assert (summary.delivered, summary.lost) == (3, 3), "and then delivered one by one"

    async def test_nothing_is_emitted_any_more_once_a_run_is_cancelled(self, tmp_path):
        async def refuse(_event):
            sending.set()
            raise UnexpectedStatus(503)

        sending = asyncio.Event()
        async with scene(tmp_path, orders=refuse) as worker:
            await enqueue(worker.store, 4)
            running = asyncio.create_task(worker.run())
            await sending.wait()
            running.cancel()
            await asyncio.wait([running])
            before = len(worker.reports)
            await asyncio.sleep(0.3)  # while what was sent is still being written
            assert len(worker.reports) == before
        assert {row[0] for row in deliveries(tmp_path, "lease_owner")} == {None}

    async def test_when_the_time_is_up_what_was_not_begun_goes_back_untried(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 12)

        blocked = asyncio.Event()

        async def wait(_event):
            await blocked.wait()

        limits = Limits(concurrency=2, endpoint_concurrency=1, run_for=0.2)
        async with scene(tmp_path, orders=wait, limits=limits) as worker:
            await enqueue(worker.store, 12)
            running = asyncio.create_task(worker.run())
            await until(worker.dispatcher._running.is_over)
            blocked.set()
            summary = await running
        tried = sum(row[0] for row in deliveries(tmp_path, "attempts"))
        assert summary.delivered == tried < 12
        assert {row[0] for row in deliveries(tmp_path, "lease_owner")} == {None}


class TestStoreFirst:
    async def test_nothing_is_sent_before_its_event_and_its_begin_are_committed(self, tmp_path):
        seen = []

        async def send(event):
            query = "SELECT lease_owner, sending FROM resonant_deliveries JOIN resonant_events e ON e.id = event_id"
            seen.extend(rows(tmp_path, f"{query} WHERE e.id = '{event.id}'"))

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store, 20)
            await worker.run()
        assert seen == [("worker", 1)] * 20

    async def test_an_outcome_and_its_decision_are_stored_before_they_are_reported(self, tmp_path):
        seen = {}

        async def send(event):
            raise answers.get(event.body, UnexpectedStatus(503))

        async def emit_one(lease):
            report = await worker.dispatcher.attempt(lease.key)
            (row,) = rows(
                tmp_path,
                f"SELECT status, d.attempts, a.number, decision, a.delay FROM resonant_deliveries d "
                f"JOIN resonant_attempts a ON delivery_id = d.id WHERE d.id = {lease.delivery_id}",
            )
            seen[type(report.decision)] = row
            assert row[-1] == report.attempt.delay
            if isinstance(report.decision, Retry):
                await worker.dispatcher.attempt(lease.key)

        answers = {b"0": UnexpectedStatus(400), b"1": UnexpectedStatus(503, "60")}
        async with scene(tmp_path, orders=send, fine=succeed) as worker:
            await enqueue(worker.store, 3)
            await enqueue(worker.store, endpoint="fine")
            await worker.dispatcher.run(emit_one)
        assert {kind: row[:-1] for kind, row in seen.items()} == {
            type(None): ("delivered", 1, 1, None),
            Retry: ("retrying", 1, 1, "retry"),
            Park: ("retrying", 1, 1, "park"),
            GiveUp: ("dead_letter", 1, 1, "give_up"),
        }


class TestLeases:
    async def test_nothing_is_sent_once_the_lease_is_lost(self, tmp_path):
        sent = []

        async def send(event):
            sent.append(event.id)

        async def emit_one(lease):
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.rescue(owners=["worker"])
                await other.claim("orders", owner="other", limit=1)
            with pytest.raises(LeaseLost):
                await worker.dispatcher.attempt(lease.key)

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store)
            summary = await worker.dispatcher.run(emit_one)
            assert summary.lost == 1
            assert str(summary).endswith(", 1 taken over by another worker")
        assert not sent
        assert deliveries(tmp_path, "lease_owner, attempts") == [("other", 0)]

    @pytest.mark.parametrize("answer", [None, UnexpectedStatus(503), UnexpectedStatus(400)])
    async def test_an_outcome_that_comes_after_the_lease_was_lost_is_history_and_nothing_else(
        self, tmp_path, answer
    ):
        async def send(_event):
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.rescue(owners=["worker"])
                await other.claim("orders", owner="other", limit=1)
            if answer is not None:
                raise answer

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store)
            summary = await worker.run()  # emit_one lets LeaseLost through
            assert (summary.lost, summary.delivered, summary.retried) == (1, 0, 0)
            assert not summary.dead_letters
        assert deliveries(tmp_path, "status, lease_owner") == [("retrying", "other")]
        # the crash that the other worker charged, and the attempt that came too late
        assert rows(tmp_path, "SELECT result, late FROM resonant_attempts ORDER BY id") == [
            ("lost", 0),
            ("delivered" if answer is None else "failed", 1),
        ]

    async def test_a_retry_is_not_sent_if_the_lease_was_lost_while_it_waited(self, tmp_path):
        sent = []

        async def send(event):
            sent.append(event.id)
            raise UnexpectedStatus(503)

        async def emit_one(lease):
            await worker.dispatcher.attempt(lease.key)
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.rescue(owners=["worker"])
            with pytest.raises(LeaseLost):
                await worker.dispatcher.attempt(lease.key)

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store)
            assert (await worker.dispatcher.run(emit_one)).lost == 1
        assert len(sent) == 1
        assert deliveries(tmp_path, "status, attempts, lease_owner") == [("retrying", 1, None)]

    async def test_a_run_that_claims_anew_what_it_lost_takes_the_two_leases_for_two(
        self, tmp_path, quick_look
    ):
        sent = []
        first = asyncio.Event()

        async def send(event):
            sent.append(event.id)
            if len(sent) == 1:
                await first.wait()

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store)
            running = asyncio.create_task(worker.run(take_over=True))
            await until(lambda: sent)
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.rescue(owners=["worker"])
            await until(lambda: len(sent) == 2)
            first.set()
            summary = await running
            assert (summary.delivered, summary.lost) == (1, 1)
        assert deliveries(tmp_path, "status, lease_owner") == [("delivered", None)]

    async def test_a_run_renews_its_own_leases_before_it_takes_over_what_ran_out(self, tmp_path, quick_look):
        looks = []

        async def send(_event):
            worker.clock.advance(300)  # it stood still
            before = len(looks)
            await until(lambda: len(looks) > before)

        async with scene(tmp_path, orders=send) as worker:
            rescue = worker.store.rescue

            async def look(**options):
                rescued = await rescue(**options)
                looks.append(rescued)
                return rescued

            worker.store.rescue = look
            await enqueue(worker.store)
            summary = await worker.run(take_over=True)
            assert (summary.delivered, summary.lost) == (1, 0)

    async def test_a_lease_is_renewed_for_as_long_as_it_is_held(self, tmp_path):
        def lease_ends_at():
            [(moment,)] = deliveries(tmp_path, "available_at")
            return moment

        async def slow(_event):
            for _ in range(3):
                before = lease_ends_at()
                await until(lambda before=before: lease_ends_at() > before)

        async with scene(tmp_path, clock=time.time, lease_seconds=1.5, orders=slow) as worker:
            await enqueue(worker.store)
            summary = await worker.run()
            assert (summary.delivered, summary.lost) == (1, 0)

    async def test_expired_leases_are_taken_over(self, tmp_path):
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store, 3)
            await worker.store.claim("orders", owner="killed", limit=3)
            worker.clock.advance(61)
            assert (await worker.run()).delivered == 0
            assert (await worker.run(take_over=True)).delivered == 3

    async def test_live_leases_are_waited_for_and_then_taken_over(self, tmp_path):
        said = []
        async with scene(tmp_path, clock=time.time, lease_seconds=3.0, orders=succeed) as worker:
            await enqueue(worker.store, 2)
            before = time.time()
            await worker.store.claim("orders", owner="killed", limit=1)
            after = time.time()
            summary = await worker.run(take_over=True, on_waiting=said.append)
            assert summary.delivered == 2
            (until_then,) = said
            assert before + 3 <= until_then <= after + 3
            assert time.time() >= until_then

    async def test_without_taking_over_what_others_hold_is_left_to_them(self, tmp_path):
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store, 2)
            await worker.store.claim("orders", owner="other", limit=1)
            assert (await worker.run()).delivered == 1
        assert deliveries(tmp_path, "lease_owner, status") == [("other", "pending"), (None, "delivered")]

    async def test_what_is_parked_for_a_moment_may_be_claimed_again_while_its_emission_ends(
        self, tmp_path, quick_look
    ):
        async def emit_one(lease):
            report = await worker.dispatcher.attempt(lease.key)
            if isinstance(report.decision, Park):
                worker.clock.advance(report.decision.delay)
                await until(lambda: len(tries) == 2)

        async def send(_event):
            tries.append(1)
            if len(tries) == 1:
                raise UnexpectedStatus(503, "60")
            await asyncio.sleep(0.1)

        tries = []
        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store)
            summary = await asyncio.wait_for(worker.dispatcher.run(emit_one), 60)
            assert (summary.parked, summary.delivered, summary.lost) == (1, 1, 0)


class TestWaiting:
    async def test_a_sleeping_retry_holds_no_slot(self, tmp_path):
        sent = []

        async def send(event):
            sent.append(event.id)
            if sent.count(patient) == 1 and event.id == patient:
                raise UnexpectedStatus(503)

        async def emit_one(lease):
            while True:
                report = await worker.dispatcher.attempt(lease.key)
                if not isinstance(report.decision, Retry):
                    return
                await until(lambda: len(sent) == 4)

        async with scene(tmp_path, orders=send, limits=Limits(concurrency=1)) as worker:
            patient, *others = await enqueue(worker.store, 4)
            await asyncio.wait_for(worker.dispatcher.run(emit_one), 60)
            assert sent == [patient, *others, patient]

    async def test_beyond_the_bound_retries_are_parked(self, tmp_path):
        arrived, decisions = [], []

        async def send(_event):
            arrived.append(1)
            await until(lambda: len(arrived) == 40)  # all of them fail in the same moment
            raise UnexpectedStatus(503)

        async def emit_one(lease):
            decisions.append((await worker.dispatcher.attempt(lease.key)).decision)
            await until(lambda: len(decisions) == 40)

        async with scene(tmp_path, orders=send, limits=Limits(max_waiting=3)) as worker:
            await enqueue(worker.store, 40)
            await worker.dispatcher.run(emit_one)
        assert Counter(map(type, decisions)) == {Retry: 3, Park: 37}
        assert Counter(deliveries(tmp_path, "status, lease_owner, next_attempt_at")) == {
            ("retrying", None, START + 1): 40
        }

    async def test_whoever_waited_leaves_its_place_to_the_next(self, tmp_path):
        async with scene(
            tmp_path, orders=failing_first(2), limits=Limits(concurrency=1, max_waiting=1)
        ) as worker:
            for _ in range(5):
                await enqueue(worker.store)
                await worker.run()
            assert (worker.dispatcher.summary.delivered, worker.dispatcher.summary.parked) == (5, 0)

    async def test_an_emission_that_ends_where_it_should_wait_hands_its_delivery_back(self, tmp_path):
        async def emit_one(lease):
            await worker.dispatcher.attempt(lease.key)

        async with scene(tmp_path, orders=failing_first()) as worker:
            await enqueue(worker.store)
            summary = await worker.dispatcher.run(emit_one)
            assert (summary.delivered, summary.parked) == (0, 1)
            assert deliveries(tmp_path, "status, lease_owner, available_at") == [
                ("retrying", None, START + 1)
            ]
            worker.clock.advance(1)
            assert (await worker.dispatcher.run(emit_one)).delivered == 1


class TestEndpoints:
    async def test_a_named_endpoint_that_there_is_not_is_an_error(self, tmp_path):
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store)
            with pytest.raises(EndpointError, match="no endpoint is named 'ordres'"):
                await worker.run(endpoint="ordres")
        assert deliveries(tmp_path, "status") == [("pending",)]

    async def test_one_that_is_found_in_the_store_and_cannot_be_opened_does_not_stop_the_others(
        self, tmp_path
    ):
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store, 2, endpoint="forgotten")
            await enqueue(worker.store, 2, endpoint="orders")
            summary = await worker.run()
            assert summary.delivered == 2
            assert summary.unknown_endpoints == {"forgotten": "no endpoint is named 'forgotten'"}
        assert Counter(deliveries(tmp_path, "endpoint, status, lease_owner")) == {
            ("forgotten", "pending", None): 2,
            ("orders", "delivered", None): 2,
        }

    @pytest.mark.parametrize(
        "error", [UnicodeError("xn--s3cret"), RuntimeError("s3cret"), KeyError("s3cret")]
    )
    async def test_an_error_in_opening_an_endpoint_holds_back_only_its_deliveries(self, tmp_path, error):
        class Sinks(dict):
            def __contains__(self, name):
                if name == "broken":
                    raise error
                return super().__contains__(name)

        async with scene(tmp_path, sinks=Sinks(orders=succeed)) as worker:
            await enqueue(worker.store, 2, endpoint="broken")
            await enqueue(worker.store, 2, endpoint="orders")
            summary = await worker.run()
            assert summary.delivered == 2
            reason = f"endpoint 'broken' cannot be opened: {type(error).__name__}"
            assert summary.unknown_endpoints == {"broken": reason}
            with pytest.raises(EndpointError, match=reason):
                await worker.run(endpoint="broken")
        assert Counter(deliveries(tmp_path, "endpoint, status, lease_owner")) == {
            ("broken", "pending", None): 2,
            ("orders", "delivered", None): 2,
        }

    async def test_one_that_turns_up_later_is_opened_then(self, tmp_path, quick_look, monkeypatch):
        monkeypatch.setattr("resonant.dispatch.destinations.REOPEN_SECONDS", 0.1)

        def problems(path):
            return rows(path, "SELECT endpoint, reason, since FROM resonant_endpoint_problems")

        sinks = {}
        async with scene(tmp_path, sinks=sinks, limits=Limits(run_for=60)) as worker:
            await enqueue(worker.store, endpoint="late")
            running = asyncio.create_task(worker.run())
            summary = worker.dispatcher.summary
            await until(lambda: "late" in summary.unknown_endpoints)
            await until(lambda: problems(tmp_path))
            assert problems(tmp_path) == [("late", "no endpoint is named 'late'", START)]
            sinks["late"] = succeed
            await until(lambda: summary.delivered == 1)
            assert summary.unknown_endpoints == {}
            assert problems(tmp_path) == []
            running.cancel()
            await asyncio.wait([running])

    @pytest.mark.parametrize("names", [("dead", "healthy"), ("healthy", "dead")], ids=["first", "last"])
    @pytest.mark.parametrize("alphabet", ["az", "za"])
    async def test_one_that_never_answers_does_not_hold_up_another(self, tmp_path, names, alphabet):
        delivered = []

        async def healthy(event):
            await asyncio.sleep(0.001)
            delivered.append(event.id)
            if len(delivered) == 300:
                all_delivered.set()

        async def dead(_event):
            await all_delivered.wait()
            raise UnexpectedStatus(400)

        all_delivered = asyncio.Event()
        actual = {"dead": alphabet[0], "healthy": alphabet[1]}
        sinks = {actual["dead"]: dead, actual["healthy"]: healthy}
        async with scene(tmp_path, limits=Limits(concurrency=20, endpoint_concurrency=20), **sinks) as worker:
            for name in names:
                await enqueue(worker.store, 300, endpoint=actual[name])
            summary = await worker.run()
            assert summary.delivered == 300
            assert summary.dead_letters == {"permanent": 300}

    async def test_several_that_never_answer_do_not_hold_up_one_that_comes_later(self, tmp_path, quick_look):
        delivered, sending = [], []

        async def healthy(event):
            delivered.append(event.id)
            if len(delivered) == 100:
                all_delivered.set()

        async def dead(_event):
            sending.append(1)
            await all_delivered.wait()
            raise UnexpectedStatus(400)

        all_delivered = asyncio.Event()
        sinks = {"dead-1": dead, "dead-2": dead, "dead-3": dead, "healthy": healthy}
        async with scene(tmp_path, limits=Limits(concurrency=40), **sinks) as worker:
            for name in ("dead-1", "dead-2", "dead-3"):
                await enqueue(worker.store, 100, endpoint=name)
            running = asyncio.create_task(worker.run())
            await until(lambda: len(sending) >= 30)
            await enqueue(worker.store, 100, endpoint="healthy")
            assert (await running).delivered == 100

    async def test_its_own_limit_of_sends_is_kept(self, tmp_path):
        now, most = [], []

        async def send(_event):
            now.append(1)
            most.append(len(now))
            await asyncio.sleep(0.002)
            now.pop()

        destination = sink_target("orders", CallableSink(send), concurrency=3)
        async with scene(tmp_path, orders=destination) as worker:
            await enqueue(worker.store, 60)
            await worker.run()
        assert max(most) == 3


class TestCancellation:
    async def test_a_run_cancelled_in_mid_send_hands_everything_back_with_no_attempt_charged(self, tmp_path):
        before = asyncio.all_tasks()
        sending = []

        async def hang(event):
            sending.append(event.id)
            await asyncio.sleep(3600)

        async with scene(tmp_path, orders=hang) as worker:
            await enqueue(worker.store, 120)
            running = asyncio.create_task(worker.run())
            await until(lambda: len(sending) == 50)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert asyncio.all_tasks() == before
        columns = "status, attempts, round_attempts, lease_owner, sending, available_at"
        assert Counter(deliveries(tmp_path, columns)) == {("pending", 0, 0, None, 0, START): 120}
        assert rows(tmp_path, "SELECT * FROM resonant_attempts") == []

    async def test_a_run_cancelled_while_retries_wait_hands_them_back_for_when_they_are_due(self, tmp_path):
        before = asyncio.all_tasks()
        waiting = []

        async def emit_one(lease):
            await worker.dispatcher.attempt(lease.key)
            waiting.append(lease)
            await asyncio.sleep(3600)

        async with scene(tmp_path, orders=fail) as worker:
            await enqueue(worker.store, 10)
            running = asyncio.create_task(worker.dispatcher.run(emit_one))
            await until(lambda: len(waiting) == 10)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert asyncio.all_tasks() == before
        assert Counter(deliveries(tmp_path, "status, attempts, lease_owner, sending, available_at")) == {
            ("retrying", 1, None, 0, START + 1): 10
        }

    @pytest.mark.parametrize("waits", [False, True], ids=["sending", "waiting"])
    def test_ctrl_c_does_the_same(self, tmp_path, waits):
        async def run():
            async def send(_event):
                if waits:
                    raise UnexpectedStatus(503)
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(3600)

            async def emit_one(lease):
                await worker.dispatcher.attempt(lease.key)
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(3600)

            async with scene(tmp_path, orders=send) as worker:
                await enqueue(worker.store)
                await worker.dispatcher.run(emit_one)

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(run())
        assert deliveries(tmp_path, "lease_owner, sending, attempts") == [(None, 0, int(waits))]

    @pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
    def test_a_sink_that_is_interrupted_has_not_failed(self, tmp_path, error):
        async def run():
            async def send(_event):
                raise error

            async with scene(tmp_path, orders=send) as worker:
                await enqueue(worker.store, 3)
                await worker.run()

        with pytest.raises(error):
            asyncio.run(run())
        assert Counter(deliveries(tmp_path, "status, attempts, lease_owner, sending")) == {
            ("pending", 0, None, 0): 3
        }
        assert rows(tmp_path, "SELECT * FROM resonant_attempts") == []

    async def test_a_claim_that_is_cancelled_while_it_is_committed_is_handed_back_too(self, tmp_path):
        def cancel(connection):
            query = "SELECT 1 FROM resonant_deliveries WHERE lease_owner = 'worker'"
            if tasks and connection.exec_driver_sql(query).fetchall():
                loop, task = tasks.pop()
                loop.call_soon_threadsafe(task.cancel)
                time.sleep(0.05)  # the commit takes its time

        tasks = []
        with listening("commit", cancel):
            async with scene(tmp_path, orders=succeed) as worker:
                await enqueue(worker.store, 3)
                running = asyncio.create_task(worker.run())
                tasks.append((asyncio.get_running_loop(), running))
                await asyncio.wait([running])
                assert running.cancelled()
        assert deliveries(tmp_path, "lease_owner, lease_token") == [(None, 1)] * 3

    async def test_a_run_that_fails_leaves_no_task_behind_either(self, tmp_path):
        before = asyncio.all_tasks()

        async def emit_one(lease):
            if lease.event.id == first:
                raise RuntimeError("the pipeline is broken")
            await asyncio.sleep(3600)

        async with scene(tmp_path, orders=succeed) as worker:
            first, *_ = await enqueue(worker.store, 5)
            with pytest.raises(RuntimeError, match="the pipeline is broken"):
                await worker.dispatcher.run(emit_one)
        assert asyncio.all_tasks() == before
        assert deliveries(tmp_path, "lease_owner") == [(None,)] * 5


class TestTheStoreGoesAway:
    async def test_for_less_than_the_patience_nobody_notices(self, tmp_path, impatient_sqlite, quick_look):
        sent, stack = [], contextlib.ExitStack()

        async def send(_event):
            if not sent:
                stack.enter_context(locked(tmp_path / "r.db"))
                asyncio.get_running_loop().call_later(0.3, stack.close)
            sent.append(1)

        async with scene(tmp_path, orders=send, lease_seconds=15) as worker:
            await enqueue(worker.store, 200)
            assert (await worker.run(take_over=True)).delivered == 200
        assert Counter(deliveries(tmp_path, "status, attempts")) == {("delivered", 1): 200}
        assert rows(tmp_path, "SELECT count(*) FROM resonant_attempts") == [(200,)]

    async def test_after_a_longer_outage_the_run_fails_and_in_flight_deliveries_are_retried(
        self, tmp_path, disk, caplog
    ):
        before = asyncio.all_tasks()
        sent = []

        async def send(_event):
            sent.append(1)
            if len(sent) == 1:
                disk.is_read_only = True

        async def emit_one(lease):
            with contextlib.suppress(StoreUnavailable):  # as Prefect keeps what its tasks raise to itself
                await worker.dispatcher.attempt(lease.key)

        async with scene(tmp_path, orders=send, lease_seconds=1.5) as worker:
            await enqueue(worker.store, 3)
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(worker.dispatcher.run(emit_one), 60)
        assert asyncio.all_tasks() == before
        assert "leases were not handed back" in caplog.text
        disk.is_read_only = False

        async with scene(tmp_path, orders=send, clock=FixedClock(START + 60)) as next_one:
            assert (await next_one.run(take_over=True)).delivered == 3
        assert len(sent) == 6
        assert Counter(deliveries(tmp_path, "status, attempts")) == {("delivered", 2): 3}

    async def test_the_error_that_ends_the_run_is_the_only_message(self, tmp_path, disk, caplog):
        async def send(_event):
            disk.is_read_only = True

        async def run():
            async with scene(tmp_path, orders=send, lease_seconds=1.5) as worker:
                await enqueue(worker.store, 3)
                await worker.run()

        with pytest.raises(StoreUnavailable):
            await run()
        assert not caplog.messages

    @pytest.mark.parametrize("endpoint", [None, "orders"])
    async def test_an_emission_also_waits_for_the_lock_before_its_first_send(
        self, tmp_path, impatient_sqlite, endpoint
    ):
        stack = contextlib.ExitStack()
        async with scene(tmp_path, orders=succeed, lease_seconds=15) as worker:
            await enqueue(worker.store, 1)
            stack.enter_context(locked(tmp_path / "r.db"))
            asyncio.get_running_loop().call_later(0.2, stack.close)
            assert (await worker.run(take_over=True, endpoint=endpoint)).delivered == 1

    async def test_a_failure_that_comes_while_the_store_is_asked_what_is_due_fails_the_run_too(
        self, tmp_path, quick_look
    ):
        async def emit_one(_lease):
            await asked_again.wait()
            raise RuntimeError("broken")

        asked_again = asyncio.Event()
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store)
            due = worker.store.due

            async def due_while_it_breaks(endpoint):
                if worker.dispatcher._running:
                    asked_again.set()
                    while worker.dispatcher._running:
                        await asyncio.sleep(0)
                return await due(endpoint)

            worker.store.due = due_while_it_breaks
            with pytest.raises(RuntimeError, match="broken"):
                await worker.dispatcher.run(emit_one, endpoint="orders")

    async def test_so_does_a_renewal_of_leases_that_breaks(self, tmp_path):
        async def renew(*_args):
            raise RuntimeError("broken")

        async def wait(_event):
            await asyncio.sleep(30)

        async with scene(tmp_path, lease_seconds=0.1, orders=wait) as worker:
            await enqueue(worker.store)
            worker.store.renew = renew
            with pytest.raises(RuntimeError, match="broken"):
                await asyncio.wait_for(worker.run(), 60)

    async def test_an_emission_that_ends_without_an_attempt_fails_the_run(self, tmp_path):
        async def emit_one(_lease):
            return None

        async with scene(tmp_path, orders=succeed) as worker:
            (event_id,) = await enqueue(worker.store)
            with pytest.raises(RuntimeError, match=f"emission of {event_id} ended without an attempt"):
                await worker.dispatcher.run(emit_one)
        assert deliveries(tmp_path, "status, lease_owner") == [("pending", None)]


class TestWhatIsGivenWithItsLeases:
    @staticmethod
    async def claim(worker, count, *, endpoint="orders"):
        await enqueue(worker.store, count, endpoint)
        return await worker.store.claim(endpoint, owner="worker", limit=count)

    async def test_it_is_emitted_like_what_was_found_due(self, tmp_path):
        async def batches():
            yield await self.claim(worker, 3)
            yield await self.claim(worker, 2)

        async with scene(tmp_path, orders=failing_first()) as worker:
            summary = await worker.dispatcher.emit_given(worker.emit_one, batches())
            assert (summary.delivered, summary.retried) == (5, 5)
        assert deliveries(tmp_path, "status, attempts") == [("delivered", 2)] * 5

    async def test_more_is_asked_for_only_while_the_sends_keep_up(self, tmp_path):
        asked = []

        async def send(_event):
            await all_asked.wait()

        async def batches():
            for _ in range(50):
                asked.append(1)
                yield await self.claim(worker, 1)

        all_asked = asyncio.Event()
        async with scene(tmp_path, orders=send, limits=Limits(concurrency=4)) as worker:
            emitting = asyncio.create_task(worker.dispatcher.emit_given(worker.emit_one, batches()))
            await until(lambda: len(asked) == 8)
            await asyncio.sleep(0.05)
            assert len(asked) == 8
            all_asked.set()
            assert (await emitting).delivered == 50

    async def test_an_endpoint_that_there_is_not_is_an_error_and_all_is_handed_back(self, tmp_path):
        before = asyncio.all_tasks()

        async def hang(_event):
            await asyncio.sleep(3600)

        async def batches():
            yield await self.claim(worker, 2)
            yield await self.claim(worker, 2, endpoint="forgotten")

        async with scene(tmp_path, orders=hang) as worker:
            with pytest.raises(EndpointError, match="'forgotten'"):
                await worker.dispatcher.emit_given(worker.emit_one, batches())
        assert asyncio.all_tasks() == before
        assert deliveries(tmp_path, "lease_owner, attempts") == [(None, 0)] * 4

    @pytest.mark.parametrize("late", [False, True], ids=["while it waits", "while it asks for more"])
    async def test_a_failure_of_the_pipeline_is_raised_whenever_it_comes(self, tmp_path, late):
        async def emit_one(_lease):
            raise RuntimeError("the pipeline is broken")

        async def batches():
            yield await self.claim(worker, 1)
            if late:
                await until(lambda: not worker.dispatcher._running)

        async with scene(tmp_path, orders=succeed) as worker:
            with pytest.raises(RuntimeError, match="the pipeline is broken"):
                await worker.dispatcher.emit_given(emit_one, batches())


ANOTHER_PROCESS = """
    import asyncio, sys
    from resonant.events import Event
    from resonant.store import open_store

    async def main():
        store = await open_store(sys.argv[1])
        await store.enqueue([Event(type="t", source="/s", data=1, id="evt_late")], "orders")
        await store.close()

    asyncio.run(main())
"""


class TestHowLongARunGoesOn:
    async def test_what_another_process_stores_meanwhile_is_emitted(self, tmp_path):
        sent = []

        async def send(event):
            sent.append(event.id)
            if event.id == "evt_late":
                running.cancel()

        async with scene(tmp_path, clock=time.time, orders=send, limits=Limits(run_for=60)) as worker:
            await enqueue(worker.store)
            running = asyncio.create_task(worker.dispatcher.run(worker.emit_one))
            await until(lambda: worker.dispatcher.summary.delivered == 1)
            other = await asyncio.create_subprocess_exec(
                sys.executable, "-c", textwrap.dedent(ANOTHER_PROCESS), f"sqlite:///{tmp_path / 'r.db'}"
            )
            assert await other.wait() == 0
            await asyncio.wait([running], timeout=30)
        assert sent[1:] == ["evt_late"]

    async def test_it_ends_when_the_time_is_up_though_nothing_is_due(self, tmp_path, quick_look):
        async with scene(tmp_path, orders=succeed, limits=Limits(run_for=0.3)) as worker:
            start = time.monotonic()
            await worker.run(take_over=True)
            assert 0.3 <= time.monotonic() - start < 30

    async def test_a_retry_that_might_wait_beyond_the_end_is_parked(self, tmp_path, quick_look):
        async with scene(tmp_path, orders=failing_first(), limits=Limits(run_for=0.9)) as worker:
            await enqueue(worker.store)
            await worker.run()
            assert (worker.dispatcher.summary.parked, worker.dispatcher.summary.retried) == (1, 0)

    async def test_when_the_time_is_up_what_still_waits_for_its_turn_goes_back_untried(
        self, tmp_path, quick_look
    ):
        async def send(_event):
            await until(worker.dispatcher._running.is_over)

        limits = Limits(concurrency=1, run_for=2.0)
        async with scene(tmp_path, orders=send, limits=limits) as worker:
            await enqueue(worker.store, 3)
            assert (await worker.run()).delivered == 1
        assert deliveries(tmp_path, "status, attempts, lease_owner") == [
            ("delivered", 1, None),
            ("pending", 0, None),
            ("pending", 0, None),
        ]

    async def test_when_the_time_is_up_nothing_new_is_claimed_and_what_was_begun_is_ended(
        self, tmp_path, quick_look
    ):
        another = asyncio.Event()

        async def send(_event):
            await another.wait()

        limits = Limits(concurrency=1, run_for=2.0)
        async with scene(tmp_path, orders=send, limits=limits) as worker:
            await enqueue(worker.store)
            running = asyncio.create_task(worker.run())
            await until(worker.dispatcher._running.is_over)
            await enqueue(worker.store)
            another.set()
            assert (await running).delivered == 1
        assert deliveries(tmp_path, "status") == [("delivered",), ("pending",)]


async def test_what_a_real_receiver_got_is_what_the_store_says(tmp_path):
    def script(request):
        first = request.try_number == 1
        return {
            0: respond(200),
            1: respond(500) if first else respond(200),
            2: respond(400, body=b"no such amount"),
            3: reset_before_response() if first else respond(200),
            4: respond(429, {"retry-after": "3600"}),
        }[int(request.body) % 5]

    async with Receiver(script) as receiver:
        endpoint = Endpoint("hook", receiver.url, allow_private=True)
        sink = HttpSink(endpoint)

        def describe(error):
            return safe_message(error, endpoint)

        destination = sink_target("hook", sink, describe=describe, close=sink.aclose)
        async with scene(tmp_path, hook=destination) as worker:
            await enqueue(worker.store, 50, endpoint="hook")
            summary = await worker.run()
        journal = receiver.journal

    assert str(summary) == "30 delivered, 20 retried, 10 parked, 10 dead-lettered (10 permanent)"
    received = Counter((entry.webhook_id, entry.body, entry.status) for entry in journal)
    stored = rows(
        tmp_path,
        "SELECT event_id, body, a.status_code FROM resonant_attempts a "
        "JOIN resonant_deliveries d ON d.id = delivery_id JOIN resonant_events e ON e.id = event_id",
    )
    assert Counter(stored) == received
    assert Counter(
        rows(tmp_path, "SELECT code, error_type FROM resonant_attempts WHERE result = 'failed'")
    ) == {
        ("http_500", "UnexpectedStatus"): 10,
        ("http_400", "UnexpectedStatus"): 10,
        ("connection_reset", "ConnectionResetError"): 10,
        ("throttled", "UnexpectedStatus"): 10,
    }
