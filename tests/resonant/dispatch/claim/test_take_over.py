"""A run takes the deliveries of processes that have ended; after an outage, it leaves those of live processes alone."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from resonant.dispatch.claim import leases
from resonant.dispatch.limits import Limits
from support.dispatching import appending_to, draining, enqueue, opened
from support.waiting import until

LEASE_SECONDS = 3.0


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Give live processes enough time on a busy machine."""
    monkeypatch.setattr(
        leases.ExpiryWatch,
        "seconds_left",
        property(lambda watch: watch._watches_since + 600 - watch._last[1]),
    )


@asynccontextmanager
async def run(url, owner, send):
    """Run a drain on its own store; yields the store, and a list that grows with each look for work."""
    async with opened(url, lease_seconds=LEASE_SECONDS) as store:
        looks, look = [], store.look

        async def count(*args, **options):
            looks.append(1)
            return await look(*args, **options)

        store.look = count
        async with draining(store, send, owner=owner, limits=Limits(run_for=600, successors=9)):
            yield store, looks


async def test_a_process_that_starts_after_an_outage_leaves_the_leases_of_live_processes(
    postgresql, postgresql_url
):
    sent, go = [], asyncio.Event()

    async with run(postgresql_url, "living", appending_to(sent, go)) as (store, _):
        ids = await enqueue(store, 5)
        await until(lambda: len(sent) == 5)
        async with postgresql.stopped_meanwhile():
            ends_at = store.clock() + LEASE_SECONDS
            await until(lambda: store.clock() > ends_at)
        async with run(postgresql_url, "new", appending_to(sent)) as (other, looks):
            await until(lambda: looks)
            go.set()
            await until(lambda: is_done(other))
            balance = await other.status()
    assert sorted(sent) == ids, "each was sent once"
    assert (balance.delivered, balance.balanced) == (5, True)


async def is_done(store):
    return (await store.status()).delivered == 5
