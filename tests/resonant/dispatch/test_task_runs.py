"""A task run starts only to send, and keeps the retries that are due soon, in simulated time."""

import asyncio
import contextlib
from collections import deque

import pytest

from resonant.delivery.retry import Retry
from resonant.dispatch.limits import LANES, Limits
from resonant.errors import UnexpectedStatus
from resonant.sinks.base import CallableSink
from support.dispatching import (
    START,
    answering,
    deliveries,
    dispatching,
    enqueue,
    hang,
    opened,
    sink_target,
    succeed,
)
from support.simulated_time import clock_from
from support.waiting import until

EVENTS = 200
# A task run takes this long to start, one after the other.
START_SECONDS = 0.005


def twenty_per_second():
    """Return a sink that accepts 20 requests in a second, and refuses the others."""

    async def send(_event):
        now = asyncio.get_running_loop().time()
        while accepted and accepted[0] < now - 1:
            accepted.popleft()
        if len(accepted) >= 20:
            raise UnexpectedStatus(429, "1")
        accepted.append(now)
        await asyncio.sleep(0.01)

    accepted = deque()
    return send


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

    async def emit_chunk(self, chunk):
        await self._start()
        await self.dispatcher.attempt_all(chunk)
        self.attempts.append(chunk.counts.delivered + chunk.counts.parked)


@contextlib.asynccontextmanager
async def starting(path, send=succeed, *, sinks=None, seconds=START_SECONDS, run_for=60, **limits):
    """Run a dispatcher for the block; ``sinks`` are those of endpoints that do not use ``send``."""

    async def open_destination(name):
        return sink_target(name, CallableSink((sinks or {}).get(name, send)))

    options = {"open_destination": open_destination, "limits": Limits(run_for=run_for, **limits)}
    async with (
        opened(f"sqlite:///{path / 'r.db'}", clock=clock_from(START)) as store,
        dispatching(store, None, **options) as dispatcher,
    ):
        starts = Starts(dispatcher, seconds=seconds)
        starts.run = asyncio.create_task(dispatcher.run(starts.emit_one, emit_chunk=starts.emit_chunk))
        try:
            yield store, starts
        finally:
            starts.run.cancel()
            await asyncio.wait([starts.run])


@pytest.mark.parametrize("lane", ["auto", "task"])
async def test_an_endpoint_that_refuses_excess_gets_no_task_run_in_vain(tmp_path, lane):
    async with starting(tmp_path, twenty_per_second(), **LANES[lane]) as (store, starts):
        await enqueue(store, EVENTS)
        counts = await starts.run
    assert counts.delivered == EVENTS
    assert min(starts.attempts) >= 1
    assert len(starts.attempts) <= 1.1 * EVENTS
    assert starts.retries >= 0.4 * (counts.attempts - EVENTS)
    claims = sum(token for (token,) in deliveries(tmp_path, "lease_token"))
    assert claims <= 1.5 * EVENTS, "what the gate would hold is not claimed"


async def test_a_chunk_sends_even_if_the_gate_closes_while_its_task_run_starts(tmp_path):
    busy = answering(429, "20")
    async with starting(tmp_path, busy, chunk_size=5, seconds=0.5) as (store, starts):
        await enqueue(store, 20)
        await asyncio.sleep(5)
    assert len(starts.attempts) > 1
    assert min(starts.attempts) == 1


async def test_a_chunk_sends_one_delivery_before_the_first_answer_however_slowly_its_task_run_starts(
    tmp_path,
):
    async def answer_late(event):
        sent.append(event.id)
        await asyncio.sleep(0.3)

    sent = []
    async with starting(tmp_path, answer_late, chunk_size=5, seconds=0.6) as (store, _):
        await enqueue(store, 20)
        await until(lambda: sent)
        await asyncio.sleep(0.2)
        assert len(sent) == 1
        await asyncio.sleep(5)
    assert len(sent) == 20


async def test_an_endpoint_is_not_slow_because_its_task_runs_start_slowly(tmp_path):
    async with starting(tmp_path, hang, sinks={"orders": succeed}, concurrency=20) as (store, starts):
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


async def test_few_task_runs_of_an_endpoint_start_at_a_time_since_its_gate_may_close(tmp_path):
    async with starting(tmp_path) as (store, starts):
        for _ in range(40):
            await enqueue(store)
            await asyncio.sleep(0.05)
        async with starts.engine:
            await enqueue(store, 100)
            await asyncio.sleep(1)
            assert starts.starting == 8
        await asyncio.sleep(2)
    assert len(starts.attempts) == 140


async def test_no_more_are_sent_alone_while_many_task_runs_are_starting(tmp_path):
    async with starting(tmp_path, seconds=0.05, **LANES["auto"]) as (store, starts):
        for number in range(250):
            await enqueue(store, 1, f"e-{number % 40}")
            await asyncio.sleep(0.01)
    assert 50 < starts.most_starting <= LANES["auto"]["alone"]


async def test_chunks_grow_while_task_runs_start_slowly(tmp_path):
    async with starting(tmp_path, seconds=0.05, **LANES["bulk"]) as (store, _):
        for number in range(300):
            await enqueue(store, 1, f"e-{number % 10}")
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)
    waits = deliveries(tmp_path, "coalesce(first_attempt_at, 1e12) - accepted_at")
    assert max(wait for (wait,) in waits) <= 2
