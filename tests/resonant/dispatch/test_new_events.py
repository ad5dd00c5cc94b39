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

# The receiver refuses more requests in a second.
CAPACITY = 40
NEW_PER_SECOND = CAPACITY // 4
SECONDS = 15


async def drain(path, lane, *, old, state, age=3_600.0, answer_takes=0.02, concurrency=None):
    """Send old events to an endpoint while new ones arrive."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
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

    limits = Limits(run_for=SECONDS, **LANES[lane])
    async with opened(f"sqlite:///{path}/r.db", clock=clock) as store:
        await enqueue(store, old)
        age, gate = 0.0, Gate("orders")
        changed = replace(gate, state=state, since=clock(), pace=float(CAPACITY))
        assert await store.write(change_gate, GateChange(gate, changed))
        async with dispatching(store, None, open_destination=open_destination, limits=limits) as dispatcher:
            run = asyncio.create_task(emit(dispatcher))
            for _ in range(NEW_PER_SECOND * SECONDS):
                await enqueue(store)
                await asyncio.sleep(1 / NEW_PER_SECOND)
            await run


def drained(path, *args, **options):
    """Return how long new events waited for their first attempt, and how many new and how many old events were delivered."""
    run_in_simulated_time(drain(path, *args, **options))
    found = deliveries(path, "accepted_at, coalesce(first_attempt_at, 1e12), status")
    # Those of the last second may not have an attempt yet.
    longest_wait = max(tried_at - at for at, tried_at, _ in found if START <= at < START + SECONDS - 1)
    delivered = Counter(at >= START for at, _, status in found if status == "delivered")
    return longest_wait, delivered[True], delivered[False]


@pytest.mark.parametrize("lane", ["task", "auto"])
def test_behind_a_backlog_they_hardly_wait_longer_for_the_pace_and_it_gets_the_rest(tmp_path, lane):
    (tmp_path / "alone").mkdir()
    without, *_ = drained(tmp_path / "alone", lane, old=0, state="paced")
    longest_wait, new, old = drained(tmp_path, lane, old=2_000, state="paced")
    assert longest_wait <= without + 1
    assert old > 2.5 * new


@pytest.mark.parametrize("age", [3_600.0, 15.0], ids=["an hour", "seconds"])
@pytest.mark.parametrize("lane", ["task", "auto"])
def test_they_wait_briefly_at_a_normal_endpoint_with_slow_answers(tmp_path, lane, age):
    slow = {"answer_takes": 4 / CAPACITY, "concurrency": 4}
    longest_wait, new, old = drained(tmp_path, lane, old=2_000, state="normal", age=age, **slow)
    assert longest_wait <= 1
    assert new + old > 0.9 * CAPACITY * SECONDS


@pytest.mark.parametrize("lane", ["task", "auto"])
def test_behind_a_burst_they_wait_briefly_once_it_is_ten_seconds_old(tmp_path, lane):
    slow = {"answer_takes": 4 / CAPACITY, "concurrency": 4}
    drained(tmp_path, lane, old=2_000, state="normal", age=0.5, **slow)
    found = deliveries(tmp_path, "accepted_at - 0.0, coalesce(first_attempt_at, 1e12) - accepted_at")
    waits = [wait for at, wait in found if START + 11 <= at < START + SECONDS - 2]
    assert len(waits) > NEW_PER_SECOND
    assert max(waits) <= 2
