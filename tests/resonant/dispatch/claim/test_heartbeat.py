"""Leases in flight are renewed three times per lease duration."""

import asyncio
from types import SimpleNamespace

import pytest

from resonant.dispatch.claim.heartbeat import LeaseHeartbeat
from resonant.errors import StoreUnavailable
from resonant.testing import FixedClock

START = 1_700_000_000.0


class Store:
    """Notes the renewed leases, and first raises the given failures."""

    def __init__(self, lease_seconds=60.0, failures=()):
        self.clock = FixedClock(START)
        self.lease_seconds = lease_seconds
        self.renewed = []
        self.failures = list(failures)

    async def renew(self, owner, delivery_ids):
        if self.failures:
            raise self.failures.pop()
        self.renewed.append((owner, delivery_ids))


def heartbeat(store, *, held=frozenset({7})):
    in_flight = SimpleNamespace(delivery_ids=lambda: held) if held else {}
    return LeaseHeartbeat(store, "me", in_flight)


async def beat(store, condition=lambda: False, seconds=30.0, **options):
    """Let it beat until the condition, for at most this many seconds."""
    beating = asyncio.create_task(heartbeat(store, **options).beat())
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                assert not beating.done()
                await asyncio.sleep(0.001)
    except TimeoutError:
        pass
    beating.cancel()
    await asyncio.wait([beating])


async def test_leases_in_flight_are_renewed_until_it_is_cancelled():
    store = Store(lease_seconds=0.03)
    await beat(store, lambda: len(store.renewed) >= 3)
    number = len(store.renewed)
    assert number >= 3
    await asyncio.sleep(0.03)
    assert store.renewed == [("me", {7})] * number


async def test_without_leases_nothing_is_written():
    store = Store(lease_seconds=0.003)
    await beat(store, seconds=0.03, held=())
    assert store.renewed == []


async def test_a_brief_outage_of_the_store_ends_no_renewal():
    store = Store(lease_seconds=0.003, failures=[StoreUnavailable("away")] * 2)
    await beat(store, lambda: store.renewed)
    assert store.renewed


async def test_an_unexpected_error_is_raised():
    store = Store(lease_seconds=0.003, failures=[RuntimeError("broken")])
    with pytest.raises(RuntimeError, match="broken"):
        await asyncio.wait_for(heartbeat(store).beat(), 30)


async def test_it_catches_up_only_if_a_renewal_is_overdue():
    store = Store(lease_seconds=60.0)
    renewing = heartbeat(store)
    store.clock.advance(29)
    await renewing.catch_up()
    assert store.renewed == []
    store.clock.advance(2)
    await renewing.catch_up()
    await renewing.catch_up()
    assert len(store.renewed) == 1
