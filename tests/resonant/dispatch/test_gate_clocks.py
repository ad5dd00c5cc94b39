"""Processes whose clocks differ share the gate of an endpoint."""

import asyncio
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.limits import Limits
from resonant.gate import controller
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate, read_gates
from support.dispatching import appending_to, draining, enqueue, fail, opened
from support.waiting import until

HOUR = 3600.0
EVENTS = 60


def clock_ahead(seconds):
    return lambda: time.time() + seconds


@asynccontextmanager
async def running(url, name, send, *, ahead):
    """Run a dispatcher on its own store, with a clock that is ahead by this time."""
    policy = RetryPolicy(base=0.2, factor=1.0)
    async with (
        opened(url, process_clock=clock_ahead(ahead)) as store,
        draining(store, send, policy=policy, seed=name, owner=name, limits=Limits(run_for=60)),
    ):
        yield


async def note_pilots(store, pilots):
    while True:
        pilots.append((await store.read(read_gate, "orders")).pilot)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_a_recovered_endpoint_gets_everything_from_processes_whose_clocks_are_an_hour_apart(
    store_url, ahead, monkeypatch
):
    # A slow commit would end the pilot's lease.
    monkeypatch.setattr(controller, "PILOT_SECONDS", 60.0)
    monkeypatch.setattr(controller, "_RENEW_SECONDS", 59.0)
    sent, pilots = [], []
    async with opened(store_url, process_clock=clock_ahead(min(0.0, ahead))) as observer:
        await enqueue(observer, EVENTS)
        now = (await observer.read(read_gates)).at
        down = Gate("orders", "probing", since=now, failing_since=now, probe_at=now, pace=20.0)
        await observer.write(change_gate, GateChange(Gate("orders"), down))
        noting = asyncio.create_task(note_pilots(observer, pilots))
        send = appending_to(sent)
        async with running(store_url, "right", send, ahead=0), running(store_url, "wrong", send, ahead=ahead):
            await until(lambda: len(sent) == EVENTS)
        noting.cancel()
        await asyncio.wait([noting])
    assert len(set(sent)) == EVENTS
    taken = [pilot for before, pilot in pairwise(pilots) if pilot not in (None, before)]
    assert len(taken) == 1, "one process sends until the end"


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_an_outage_is_noticed_and_timed_alike_by_a_process_whose_clock_is_wrong(store_url, ahead):
    async with opened(store_url, process_clock=clock_ahead(ahead)) as observer:
        await enqueue(observer, EVENTS)
        began = (await observer.read(read_gates)).at
        async with running(store_url, "wrong", fail, ahead=ahead):
            async with asyncio.timeout(60):
                while (gate := await observer.read(read_gate, "orders")).state != "probing":
                    await asyncio.sleep(0.02)
            now = (await observer.read(read_gates)).at
    assert began <= gate.failing_since <= now
    assert gate.probe_at < now + 2
