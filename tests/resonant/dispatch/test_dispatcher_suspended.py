"""A process that was suspended, or waited long, checks its leases before it sends."""

from __future__ import annotations

import asyncio

import pytest

from resonant.dispatch.limits import Limits
from resonant.sinks.base import CallableSink
from resonant.testing import FixedClock
from support.dispatching import START, Scene, another_worker, deliveries, enqueue, scene, sink_target

_SLEEP_SECONDS = 100.0


class Machine:
    """A machine that sleeps for longer than a lease, while another one takes over its deliveries."""

    def __init__(self, path, clock):
        self._path = path
        self._clock = clock

    async def sleep(self, number):
        """Sleep, and let another worker take over this many deliveries."""
        self._clock.advance(_SLEEP_SECONDS)
        async with another_worker(self._path, clock=self._clock) as other:
            await other.rescue()
            assert len(await other.claim("orders", owner="other", limit=number)) == number


@pytest.mark.usefixtures("lane")
async def test_nothing_is_sent_if_the_lease_was_lost_during_the_wait_for_the_rate(tmp_path, monkeypatch):
    sent = []

    async def send(event):
        sent.append(event.id)

    clock = FixedClock(START)
    machine = Machine(tmp_path, clock)
    async with scene(
        tmp_path, clock=clock, orders=sink_target("orders", CallableSink(send), rate=100)
    ) as worker:
        await enqueue(worker.store)
        rates = worker.dispatcher._destinations.rates
        wait = rates.wait

        async def wait_and_sleep(endpoint, slot):
            await machine.sleep(1)
            return await wait(endpoint, slot)

        monkeypatch.setattr(rates, "wait", wait_and_sleep)
        worker.dispatcher._sender._clock = clock
        summary = await worker.run()

    assert summary.lost == 1
    assert not sent
    assert deliveries(tmp_path, "lease_owner") == [("other",)]


async def test_a_send_begun_before_a_sleep_continues_only_while_its_lease_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(Scene, "chunk_size", 4)
    sent = []

    async def send(event):
        sent.append(event.id)
        if len(sent) == 1:
            await machine.sleep(4)
            await asyncio.sleep(0)

    clock = FixedClock(START)
    machine = Machine(tmp_path, clock)
    limits = Limits(concurrency=1, endpoint_concurrency=1)
    async with scene(tmp_path, clock=clock, limits=limits, orders=send) as worker:
        first, *_ = await enqueue(worker.store, 4)
        worker.dispatcher._sender._clock = clock
        summary = await worker.run()

    assert sent == [first]
    assert summary.lost == 4
