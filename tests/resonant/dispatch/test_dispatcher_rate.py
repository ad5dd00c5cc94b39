"""An endpoint with a rate: its sends wait for their slots, and nothing else does."""

import time

import pytest

from resonant.dispatch.limits import Limits
from resonant.dispatch.tracking import Tracker
from resonant.events import Event
from resonant.sinks.base import CallableSink
from support.dispatching import deliveries, enqueue, rows, scene, sink_target, succeed

pytestmark = pytest.mark.usefixtures("lane")


async def enqueue_tracked(store, count, endpoint):
    tracker = Tracker(store)
    events = [Event(type="order.paid", source="/shop", data=n) for n in range(count)]
    tracker.add((await store.enqueue(events, endpoint)).delivery_ids)
    return tracker


def with_rate(send, rate):
    return sink_target("orders", CallableSink(send), rate=rate)


async def test_sends_are_not_faster_than_the_rate(tmp_path):
    sent = []

    async def send(_event):
        sent.append(time.monotonic())

    async with scene(tmp_path, clock=time.time, orders=with_rate(send, 100)) as worker:
        await enqueue(worker.store, 40)
        counts = await worker.run()

    assert counts.delivered == 40
    assert sent[-1] - sent[0] > 0.9 * 39 / 100


async def test_deliveries_that_wait_at_the_end_of_the_run_are_released_uncharged(tmp_path):
    limits = Limits(run_for=0.5)
    async with scene(tmp_path, clock=time.time, limits=limits, orders=with_rate(succeed, 0.5)) as worker:
        await enqueue(worker.store, 5)
        await worker.run()
        left = deliveries(tmp_path, "status, attempts, lease_owner, first_attempt_at IS NULL")

    assert left.count(("pending", 0, None, 1)) >= 4
    assert all(status == "delivered" for status, *_ in left if status != "pending")


async def test_few_deliveries_are_claimed_ahead_and_those_begun_are_sent_soon(tmp_path):
    seen = []

    async def send(_event):
        seen.extend(rows(tmp_path, "SELECT count(lease_owner), sum(sending) FROM resonant_deliveries"))

    async with scene(tmp_path, clock=time.time, orders=with_rate(send, 20)) as worker:
        first = await enqueue_tracked(worker.store, 10, "orders")
        await enqueue(worker.store, 90)
        await worker.run(own=first)

    assert len(seen) >= 10
    # Two seconds' worth; of those that have begun, more wait for a new slot where the machine is slow.
    assert all(claimed <= 40 and begun <= 20 for claimed, begun in seen)


async def test_deliveries_that_wait_for_their_time_leave_the_slots_to_other_endpoints(tmp_path):
    sinks = {"orders": with_rate(succeed, 0.001), "billing": succeed}
    async with scene(tmp_path, clock=time.time, limits=Limits(concurrency=4), sinks=sinks) as worker:
        await enqueue(worker.store, 10)
        await worker.run(own=await enqueue_tracked(worker.store, 30, "billing"))
        done = rows(tmp_path, "SELECT count(*) FROM resonant_deliveries WHERE status = 'delivered'")

    assert done in ([(30,)], [(31,)])
