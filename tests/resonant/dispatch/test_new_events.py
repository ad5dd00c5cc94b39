"""New events do not wait for an old backlog: in simulated time, through a real store and the real dispatcher."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from resonant.dispatch.limits import LANES, Limits
from resonant.errors import UnexpectedStatus
from resonant.sinks.base import CallableSink
from resonant.store.shared.gates import Gate, GateChange, change_gate
from support.dispatching import START, deliveries, dispatching, emit, enqueue, opened, sink_target
from support.simulated_time import run_in_simulated_time

HOUR = 3_600.0
# The receiver refuses more requests in a second.
CAPACITY = 40
NEW_PER_SECOND = CAPACITY // 4
SECONDS = 15


async def drain(path, *, lane, old, state="paced", answer_takes=0.02, concurrency=None):
    """Send old events to an endpoint while new ones arrive."""
    loop = asyncio.get_running_loop()
    began_at, age = loop.time(), HOUR
    requests = Counter()

    def clock():
        return START - age + loop.time() - began_at

    async def answer(_event):
        second = int(clock())
        requests[second] += 1
        await asyncio.sleep(answer_takes)
        if requests[second] > CAPACITY:
            raise UnexpectedStatus(429)

    async def open_destination(name):
        return sink_target(name, CallableSink(answer), concurrency=concurrency)

    async with opened(f"sqlite:///{path / 'r.db'}", clock=clock, host_clock=clock) as store:
        await enqueue(store, old)
        age = 0.0
        gate = Gate("orders")
        changed = replace(gate, state=state, since=clock(), pace=float(CAPACITY))
        assert await store.write(change_gate, GateChange(gate, changed))
        limits = Limits(run_for=SECONDS, **LANES[lane])
        async with dispatching(store, None, open_destination=open_destination, limits=limits) as dispatcher:
            run = asyncio.create_task(emit(dispatcher))
            for _ in range(NEW_PER_SECOND * SECONDS):
                await enqueue(store)
                await asyncio.sleep(1 / NEW_PER_SECOND)
            await run


def longest_wait(path):
    """Return how long a new event waited for its first attempt; those of the last second may not have one yet."""
    found = deliveries(path, "accepted_at, coalesce(first_attempt_at, 1e12)")
    return max(tried_at - at for at, tried_at in found if START <= at < START + SECONDS - 1)


def shares(path):
    """Return how many new and how many old events were delivered."""
    found = Counter(
        at >= START for at, status in deliveries(path, "accepted_at, status") if status == "delivered"
    )
    return found[True], found[False]


@pytest.mark.parametrize("lane", ["task", "auto"])
def test_new_events_wait_hardly_longer_behind_a_backlog_which_gets_the_rest(tmp_path, lane):
    (alone := tmp_path / "alone").mkdir()
    run_in_simulated_time(drain(alone, lane=lane, old=0))
    run_in_simulated_time(drain(tmp_path, lane=lane, old=2_000))
    assert longest_wait(tmp_path) <= longest_wait(alone) + 1
    new, old = shares(tmp_path)
    assert old > 2.5 * new


@pytest.mark.parametrize("lane", ["task", "auto"])
def test_they_wait_briefly_at_a_normal_endpoint_with_slow_answers(tmp_path, lane):
    slow = {"answer_takes": 4 / CAPACITY, "concurrency": 4}
    run_in_simulated_time(drain(tmp_path, lane=lane, old=2_000, state="normal", **slow))
    assert longest_wait(tmp_path) <= 1
    assert sum(shares(tmp_path)) > 0.9 * CAPACITY * SECONDS
