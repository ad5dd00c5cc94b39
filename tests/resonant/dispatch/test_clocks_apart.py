"""Processes whose clocks differ by 40 seconds share the deliveries of a store."""

import time
from contextlib import asynccontextmanager

import pytest

from resonant.delivery.retry import Park
from resonant.dispatch.limits import Limits
from resonant.store.shared.drains import farthest_clock
from support.desk import Desk, at_once
from support.dispatching import appending_to, draining, enqueue, opened, succeed
from support.waiting import until

EVENTS = 8
LEASE_SECONDS = 30.0

pytestmark = pytest.mark.parametrize("ahead", [40.0, -40.0])


def process(url, ahead):
    """Open the store as a process does whose clock is ahead by this time."""
    return opened(url, process_clock=lambda: time.time() + ahead, lease_seconds=LEASE_SECONDS)


@asynccontextmanager
async def running(url, name, send, *, ahead, rescues=None):
    """Run a drain in such a process; ``rescues`` gets the number of leases that each rescue has ended."""
    rescues = [] if rescues is None else rescues
    async with process(url, ahead) as store:
        rescue = store.rescue

        async def count(*args, **options):
            rescues.append(await rescue(*args, **options))

        store.rescue = count
        async with draining(store, send, owner=name, limits=Limits(run_for=600, concurrency=EVENTS)):
            yield


async def test_each_delivery_is_sent_once_and_no_success_is_late(postgresql_url, ahead, monkeypatch):
    monkeypatch.setattr("resonant.dispatch.claim.leases.ExpiryWatch", lambda *_: at_once())
    sent, rescues = [], {"right": [], "wrong": []}

    async def send(event):
        sent.append(event.id)
        before = {name: len(each) for name, each in rescues.items()}
        await until(lambda: all(len(rescues[name]) > 1 + before[name] for name in before))

    async def is_done():
        return (await observer.status()).delivered == EVENTS

    async with (
        process(postgresql_url, 0.0) as observer,
        running(postgresql_url, "right", send, ahead=0.0, rescues=rescues["right"]),
        running(postgresql_url, "wrong", send, ahead=ahead, rescues=rescues["wrong"]),
    ):
        ids = await enqueue(observer, EVENTS)
        await until(is_done)
        details = [await observer.detail(each) for each in ids]
    assert sorted(sent) == ids
    attempts = [each for detail in details for _, history in detail.deliveries for each in history]
    assert [(each.result, each.late) for each in attempts] == [("delivered", False)] * EVENTS
    assert {*rescues["right"], *rescues["wrong"]} == {0}


async def test_a_new_event_of_each_process_is_sent_at_once_by_the_other(postgresql_url, ahead):
    sent = []
    async with process(postgresql_url, 0.0) as right, process(postgresql_url, ahead) as wrong:
        for producer, drain in ((right, ahead), (wrong, 0.0)):
            [id_] = await enqueue(producer)
            async with running(postgresql_url, "drain", appending_to(sent), ahead=drain):
                await until(lambda: sent[-1:] == [id_], seconds=20)  # noqa: B023 - awaited here


async def test_a_run_reports_how_much_its_clock_differs(postgresql_url, ahead):
    async def is_reported():
        found = await right.read(farthest_clock, now=right.clock())
        return found == pytest.approx(-ahead, abs=2)

    async with process(postgresql_url, 0.0) as right, running(postgresql_url, "drain", succeed, ahead=ahead):
        await until(is_reported)


@pytest.mark.parametrize("is_parked_by_wrong", [False, True])
async def test_a_retry_after_of_one_process_is_kept_by_the_other(postgresql_url, ahead, is_parked_by_wrong):
    async with process(postgresql_url, 0.0) as right, process(postgresql_url, ahead) as wrong:
        one, other = (wrong, right) if is_parked_by_wrong else (right, wrong)
        await enqueue(one)
        leases = await one.claim("orders", owner="one", limit=1)
        await one.begin(leases)
        until_then = one.clock() + 20
        await one.record([Desk.failed(leases[0], Park(20, until_then))])
        assert await other.claim("orders", owner="other", limit=1) == []
        [due], _ = await other.look()
        assert due.at - other.clock() == pytest.approx(until_then - one.clock(), abs=2)
