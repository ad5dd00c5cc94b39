"""A task run starts only to send, and keeps the retries that are due soon, in simulated time."""

import asyncio
from collections import deque

import pytest

from resonant.delivery.retry import Retry
from resonant.dispatch.limits import LANES, Limits
from resonant.errors import UnexpectedStatus
from support.dispatching import START, deliveries, dispatching, enqueue, opened
from support.simulated_time import simulated

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

    def __init__(self, dispatcher):
        self.dispatcher = dispatcher
        self.attempts = []
        self.retries = 0
        self._engine = asyncio.Lock()

    async def _start(self):
        async with self._engine:
            await asyncio.sleep(START_SECONDS)

    async def emit_one(self, lease):
        run = len(self.attempts)
        self.attempts.append(0)
        while True:
            await self._start()
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
    loop = asyncio.get_running_loop()
    began_at = loop.time()

    def clock():
        return START + loop.time() - began_at

    url = f"sqlite:///{tmp_path / 'r.db'}"
    async with opened(url, clock=clock, host_clock=clock) as store:
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
