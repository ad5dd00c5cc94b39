"""A task run starts only to send, and keeps the retries that are due soon, in simulated time."""

import asyncio
import contextlib
from collections import deque

import pytest

from resonant.delivery.retry import Retry
from resonant.dispatch.limits import LANES, Limits
from resonant.errors import UnexpectedStatus
from resonant.sinks.base import CallableSink
from support.dispatching import START, deliveries, dispatching, enqueue, opened, sink_target, succeed
from support.simulated_time import clock_from, simulated
from support.waiting import until

EVENTS = 400
# A task run takes this long to start, one after the other.
START_SECONDS = 0.005


class TwentyPerSecond:
    """Accepts 20 requests in a second, and refuses the others."""

    def __init__(self, clock):
        self.clock = clock
        self.accepted = deque()

    async def __call__(self, _event):
        now = self.clock()
        while self.accepted and self.accepted[0] < now - 1:
            self.accepted.popleft()
        if len(self.accepted) >= 20:
            raise UnexpectedStatus(429, "1")
        self.accepted.append(now)
        await asyncio.sleep(0.01)


class Starts:
    """Emits as Prefect does, and counts the attempts of each task run; the last may be held."""

    def __init__(self, dispatcher, *, seconds=START_SECONDS):
        self.dispatcher = dispatcher
        self.attempts = []
        self.retries = self.starting = self.most_starting = 0
        self.engine = asyncio.Lock()
        self._seconds = seconds

    async def _start(self):
        async with self.engine:
            await asyncio.sleep(self._seconds)

    async def emit_one(self, lease):
        run = len(self.attempts)
        self.attempts.append(0)
        while True:
            self.starting += 1
            self.most_starting = max(self.most_starting, self.starting)
            await self._start()
            self.starting -= 1
            outcome = await self.dispatcher.attempt(lease.key)
            self.attempts[run] += 1
            if not isinstance(outcome.decision, Retry):
                return
            self.retries += 1
            await asyncio.sleep(outcome.decision.delay)

    async def emit_chunk(self, endpoint, keys):
        await self._start()
        chunk = await self.dispatcher.attempt_all(endpoint, keys)
        self.attempts.append(chunk.counts.delivered + chunk.counts.parked)


@pytest.mark.parametrize("lane", ["auto", "task"])
@simulated
async def test_an_endpoint_that_refuses_excess_gets_no_task_run_in_vain(tmp_path, lane):
    clock = clock_from(START)

    url = f"sqlite:///{tmp_path / 'r.db'}"
    async with opened(url, clock=clock) as store:
        await enqueue(store, EVENTS)
        limits = Limits(run_for=60, **LANES[lane])
        async with dispatching(store, TwentyPerSecond(clock), limits=limits) as dispatcher:
            starts = Starts(dispatcher)
            counts = await dispatcher.run(starts.emit_one, emit_chunk=starts.emit_chunk)

    assert counts.delivered == EVENTS
    assert min(starts.attempts) >= 1
    assert len(starts.attempts) <= 1.1 * EVENTS
    assert starts.retries >= 0.5 * (counts.attempts - EVENTS)
    claims = sum(token for (token,) in deliveries(tmp_path, "lease_token"))
    assert claims <= 1.5 * EVENTS, "what the gate would hold is not claimed"


@contextlib.asynccontextmanager
async def starting(path, *, limits, answers, seconds=START_SECONDS):
    """Run a dispatcher in simulated time for the block; ``answers`` returns the sink of an endpoint."""
    clock = clock_from(START)

    async def open_destination(name):
        return sink_target(name, CallableSink(answers(name)))

    async with (
        opened(f"sqlite:///{path / 'r.db'}", clock=clock) as store,
        dispatching(store, None, open_destination=open_destination, limits=limits) as dispatcher,
    ):
        starts = Starts(dispatcher, seconds=seconds)
        run = asyncio.create_task(dispatcher.run(starts.emit_one, emit_chunk=starts.emit_chunk))
        try:
            yield store, starts
        finally:
            run.cancel()
            await asyncio.wait([run])


@simulated
async def test_a_chunk_sends_even_if_the_gate_closes_while_its_task_run_starts(tmp_path):
    async def be_busy(_event):
        raise UnexpectedStatus(429, "20")

    limits = Limits(run_for=60, chunk_size=5)
    async with starting(tmp_path, limits=limits, answers=lambda _name: be_busy, seconds=0.5) as (
        store,
        starts,
    ):
        await enqueue(store, 20)
        await asyncio.sleep(5)
    assert len(starts.attempts) > 1
    assert min(starts.attempts) == 1


@simulated
async def test_a_chunk_sends_one_delivery_before_the_first_answer_however_slowly_its_task_run_starts(
    tmp_path,
):
    async def answer_late(event):
        sent.append(event.id)
        await asyncio.sleep(0.3)

    sent = []
    limits = Limits(run_for=60, chunk_size=5)
    async with starting(tmp_path, limits=limits, answers=lambda _name: answer_late, seconds=0.6) as (
        store,
        _,
    ):
        await enqueue(store, 20)
        await until(lambda: sent)
        await asyncio.sleep(0.2)
        assert len(sent) == 1
        await asyncio.sleep(5)
    assert len(sent) == 20


@simulated
async def test_an_endpoint_is_not_slow_because_its_task_runs_start_slowly(tmp_path):
    async def hang(_event):
        await asyncio.sleep(60)

    limits = Limits(run_for=60, concurrency=20)
    answers = {"orders": succeed}.get
    async with starting(tmp_path, limits=limits, answers=lambda name: answers(name, hang)) as (store, starts):
        await enqueue(store)
        await asyncio.sleep(1)
        for number in range(20):
            await enqueue(store, 1, f"dead-{number}")
        await asyncio.sleep(1)
        async with starts.engine:
            await enqueue(store)
            await asyncio.sleep(1)
        for _ in range(5):
            await enqueue(store)
            await asyncio.sleep(0.5)
    found = deliveries(tmp_path, "status, endpoint")
    assert found.count(("delivered", "orders")) == 7


@simulated
async def test_few_task_runs_of_an_endpoint_start_at_a_time_since_its_gate_may_close(tmp_path):
    limits = Limits(run_for=60)
    async with starting(tmp_path, limits=limits, answers=lambda _name: succeed) as (store, starts):
        for _ in range(40):
            await enqueue(store)
            await asyncio.sleep(0.05)
        async with starts.engine:
            await enqueue(store, 100)
            await asyncio.sleep(1)
            assert starts.starting == 8
        await asyncio.sleep(2)
    assert len(starts.attempts) == 140


@simulated
async def test_no_more_are_sent_alone_while_many_task_runs_are_starting(tmp_path):
    limits = Limits(run_for=60, **LANES["auto"])
    async with starting(tmp_path, limits=limits, answers=lambda _name: succeed, seconds=0.05) as (
        store,
        starts,
    ):
        for number in range(400):
            await enqueue(store, 1, f"e-{number % 40}")
            await asyncio.sleep(0.01)
    assert 50 < starts.most_starting <= LANES["auto"]["alone"]


@simulated
async def test_chunks_grow_while_task_runs_start_slowly(tmp_path):
    limits = Limits(run_for=60, **LANES["bulk"])
    async with starting(tmp_path, limits=limits, answers=lambda _name: succeed, seconds=0.05) as (store, _):
        for number in range(600):
            await enqueue(store, 1, f"e-{number % 10}")
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)
    waits = deliveries(tmp_path, "coalesce(first_attempt_at, 1e12) - accepted_at")
    assert max(wait for (wait,) in waits) <= 2
