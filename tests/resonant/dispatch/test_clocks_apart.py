"""Processes whose clocks differ share the deliveries and the gates of a store."""

import asyncio
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.limits import Limits
from resonant.gate import controller
from resonant.store.shared.drains import farthest_clock
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate, read_gates
from support.desk import at_once
from support.dispatching import appending_to, draining, enqueue, fail, opened, succeed
from support.waiting import until

EVENTS = 8
HOUR = 3600.0
SENDS_UNTIL_NORMAL = 60
SOON = RetryPolicy(base=0.2, factor=1.0)

BY_MORE_THAN_A_LEASE = pytest.mark.parametrize("ahead", [100.0, -100.0])
BY_AN_HOUR = pytest.mark.parametrize(
    ("store_url", "ahead"), [("sqlite", HOUR), ("postgresql", -HOUR)], indirect=["store_url"]
)


def process(url, ahead):
    """Open the store as a process does whose clock is ahead by this time."""
    return opened(url, process_clock=lambda: time.time() + ahead)


@asynccontextmanager
async def running(url, name, send, *, ahead, rescues=None):
    """Run a drain in such a process; ``rescues`` gets the number of leases that each rescue has ended."""
    rescues = [] if rescues is None else rescues
    async with process(url, ahead) as store:
        rescue = store.rescue

        async def count(*args, **options):
            rescues.append(await rescue(*args, **options))

        store.rescue = count
        limits = Limits(run_for=600, concurrency=EVENTS)
        async with draining(store, send, policy=SOON, seed=name, owner=name, limits=limits):
            yield


@BY_MORE_THAN_A_LEASE
async def test_each_delivery_is_sent_once_and_no_success_is_late(postgresql_url, ahead, monkeypatch):
    monkeypatch.setattr("resonant.dispatch.claim.leases.ExpiryWatch", lambda *_: at_once())
    monkeypatch.setattr("resonant.dispatch.claim.leases.RESCUE_SECONDS", 0.1)
    sent, rescues = [], {"right": [], "wrong": []}

    async def send(event):
        sent.append(event.id)
        before = {name: len(each) for name, each in rescues.items()}
        await until(lambda: all(len(rescues[name]) > 1 + before[name] for name in before), every=0.05)

    async def is_done():
        return (await observer.status()).delivered == EVENTS

    async with (
        process(postgresql_url, 0.0) as observer,
        running(postgresql_url, "right", send, ahead=0.0, rescues=rescues["right"]),
        running(postgresql_url, "wrong", send, ahead=ahead, rescues=rescues["wrong"]),
    ):
        ids = await enqueue(observer, EVENTS)
        await until(is_done, every=0.1)
        details = [await observer.detail(each) for each in ids]
    assert sorted(sent) == ids
    attempts = [each for detail in details for _, history in detail.deliveries for each in history]
    assert [(each.result, each.late) for each in attempts] == [("delivered", False)] * EVENTS
    assert {*rescues["right"], *rescues["wrong"]} == {0}


@BY_MORE_THAN_A_LEASE
async def test_a_run_reports_how_much_its_clock_differs(postgresql_url, ahead):
    async def is_reported():
        found = await right.read(farthest_clock, now=right.clock())
        return found == pytest.approx(-ahead, abs=2)

    async with process(postgresql_url, 0.0) as right, running(postgresql_url, "drain", succeed, ahead=ahead):
        await until(is_reported)


async def note_pilots(store, pilots):
    while True:
        pilots.append((await store.read(read_gate, "orders")).pilot)
        await asyncio.sleep(0.02)


@BY_AN_HOUR
async def test_a_recovered_endpoint_gets_everything_from_processes_whose_clocks_are_an_hour_apart(
    store_url, ahead, monkeypatch
):
    # A slow commit would end the pilot's lease.
    monkeypatch.setattr(controller, "PILOT_SECONDS", 60.0)
    monkeypatch.setattr(controller, "_RENEW_SECONDS", 59.0)
    sent, pilots = [], []
    async with process(store_url, min(0.0, ahead)) as observer:
        await enqueue(observer, SENDS_UNTIL_NORMAL)
        now = (await observer.read(read_gates)).at
        down = Gate("orders", "probing", since=now, failing_since=now, probe_at=now, pace=20.0)
        await observer.write(change_gate, GateChange(Gate("orders"), down))
        noting = asyncio.create_task(note_pilots(observer, pilots))
        send = appending_to(sent)
        async with running(store_url, "right", send, ahead=0), running(store_url, "wrong", send, ahead=ahead):
            await until(lambda: len(sent) == SENDS_UNTIL_NORMAL)
        noting.cancel()
        await asyncio.wait([noting])
    assert len(set(sent)) == SENDS_UNTIL_NORMAL
    taken = [pilot for before, pilot in pairwise(pilots) if pilot not in (None, before)]
    assert len(taken) == 1, "one process sends until the end"


@BY_AN_HOUR
async def test_an_outage_is_noticed_and_timed_alike_by_a_process_whose_clock_is_wrong(store_url, ahead):
    async def is_down():
        return (await observer.read(read_gate, "orders")).state == "probing"

    async with process(store_url, ahead) as observer:
        await enqueue(observer, SENDS_UNTIL_NORMAL)
        began = (await observer.read(read_gates)).at
        async with running(store_url, "wrong", fail, ahead=ahead):
            await until(is_down)
            gate, now = await observer.read(read_gate, "orders"), (await observer.read(read_gates)).at
    assert began <= gate.failing_since <= now
    assert gate.probe_at < now + 2
