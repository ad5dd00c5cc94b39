"""An endpoint with a rate: its sends wait for their slots, and nothing else does."""

import asyncio

import pytest

from resonant.dispatch.limits import Limits
from resonant.dispatch.tracking import Tracker
from resonant.events import Event
from resonant.sinks.base import CallableSink
from support.dispatching import START, deliveries, enqueue, ran, rows, scene, sink_target, succeed
from support.simulated_time import clock_from

pytestmark = pytest.mark.usefixtures("lane")


async def enqueue_tracked(store, count, endpoint):
    tracker = Tracker(store)
    events = [Event(type="order.paid", source="/shop", data=n) for n in range(count)]
    tracker.add((await store.enqueue(events, endpoint)).delivery_ids)
    return tracker


def with_rate(send, rate):
    return sink_target("orders", CallableSink(send), rate=rate)


async def test_sends_are_not_faster_than_the_rate(tmp_path):
    sent, now = [], asyncio.get_running_loop().time

    async def send(_event):
        sent.append(now())

    worker = await ran(tmp_path, clock=clock_from(START), orders=with_rate(send, 100), due=40)
    assert worker.counts.delivered == 40
    assert sent[-1] - sent[0] > 0.9 * 39 / 100


async def test_deliveries_that_wait_at_the_end_of_the_run_are_released_uncharged(tmp_path):
    options = {"clock": clock_from(START), "limits": Limits(run_for=0.5), "due": 5}
    await ran(tmp_path, orders=with_rate(succeed, 0.5), **options)
    left = deliveries(tmp_path, "status, attempts, lease_owner, first_attempt_at IS NULL")
    assert left.count(("pending", 0, None, 1)) >= 4
    assert all(status == "delivered" for status, *_ in left if status != "pending")


async def test_few_deliveries_are_claimed_ahead_and_those_begun_are_sent_soon(tmp_path):
    seen = []

    async def send(_event):
        seen.extend(rows(tmp_path, "SELECT count(lease_owner), sum(sending) FROM resonant_deliveries"))

    async with scene(tmp_path, clock=clock_from(START), orders=with_rate(send, 20)) as worker:
        first = await enqueue_tracked(worker.store, 10, "orders")
        await enqueue(worker.store, 90)
        await worker.run(own=first)

    assert len(seen) >= 10
    # As many as the rate allows in two seconds.
    assert all(claimed <= 40 and begun <= 20 for claimed, begun in seen)


async def test_deliveries_that_wait_for_their_time_leave_the_slots_to_other_endpoints(tmp_path):
    sinks = {"orders": with_rate(succeed, 0.001), "billing": succeed}
    async with scene(tmp_path, clock=clock_from(START), limits=Limits(concurrency=4), sinks=sinks) as worker:
        await enqueue(worker.store, 10)
        await worker.run(own=await enqueue_tracked(worker.store, 30, "billing"))
        done = rows(tmp_path, "SELECT count(*) FROM resonant_deliveries WHERE status = 'delivered'")

    assert done in ([(30,)], [(31,)])
