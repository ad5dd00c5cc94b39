"""Leases in flight are renewed, also before expired ones are rescued."""

import asyncio
from itertools import pairwise
from types import SimpleNamespace

import pytest

from resonant.dispatch.claim.leases import LeaseHeartbeat, TakeOver
from resonant.errors import StillLocked, StoreUnavailable
from resonant.events import LeaseKey
from resonant.testing import FixedClock


class Store:
    """Notes what it is asked for, and first raises the given failures."""

    def __init__(self, lease_seconds, failures=()):
        self.clock = FixedClock(1_700_000_000.0)
        self.lease_seconds = lease_seconds
        self.failures = list(failures)
        self.asked = []

    async def renew(self, _owner, delivery_ids, *, skip_locked):
        assert skip_locked
        self.asked.append("renew")
        if self.failures:
            raise self.failures.pop(0)
        return list(delivery_ids)

    async def rescue(self, _watch, **_options):
        self.asked.append("rescue")

    async def rescue_ended(self, _has_ended):
        self.asked.append("rescue ended")


def heartbeat(store):
    return LeaseHeartbeat(store, "me", SimpleNamespace(lease_keys=lambda: {LeaseKey(7, 1)}))


async def test_renewals_outlast_an_outage_and_end_with_an_unexpected_error():
    store = Store(0.003, [StoreUnavailable("away"), RuntimeError("broken")])
    with pytest.raises(RuntimeError, match="broken"):
        await heartbeat(store).beat()
    assert store.asked == ["renew", "renew"]


async def test_a_renewal_that_failed_is_tried_again_soon():
    store = Store(60.0, [StoreUnavailable("away"), StoreUnavailable("away"), StoreUnavailable("away")])
    loop, at, renew = asyncio.get_running_loop(), [], store.renew

    async def note(*given, **options):
        at.append(loop.time() - began_at)
        return await renew(*given, **options)

    store.renew, began_at = note, loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50):
            await heartbeat(store).beat()
    assert at == pytest.approx([20, 22, 24, 26, 46], abs=0.1)


async def test_a_renewal_that_waited_for_a_lock_waits_again_without_a_pause():
    store, loop, waits = Store(60.0), asyncio.get_running_loop(), []

    async def renew(_owner, _ids, *, skip_locked=False):
        if not skip_locked:
            began_at = loop.time()
            await asyncio.sleep(20)
            waits.append((began_at, loop.time()))
            raise StillLocked("another transaction holds a lock on it")
        return []

    store.renew = renew
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(90):
            await heartbeat(store).beat()
    [(_, first_ended_at), (second_began_at, _), *_] = waits
    assert second_began_at == pytest.approx(first_ended_at, abs=0.1)


async def test_the_other_leases_are_renewed_while_a_renewal_waits_for_several_locks():
    store, loop, at = Store(60.0), asyncio.get_running_loop(), []

    async def renew(_owner, _ids, *, skip_locked=False):
        if skip_locked:
            at.append(loop.time())
        else:
            await asyncio.sleep(100)  # one lock after the other, each for less than a third of a lease
        return []

    store.renew = renew
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(150):
            await heartbeat(store).beat()
    assert max(later - earlier for earlier, later in pairwise(at)) == pytest.approx(30, abs=0.1)


async def test_a_renewal_without_an_answer_is_tried_again_before_the_end_of_the_lease():
    """As on a connection that was lost within the transaction, with the driver's limit of a minute."""
    store, loop, renewed_at = Store(60.0), asyncio.get_running_loop(), []

    async def renew(_owner, ids, *, skip_locked):
        assert skip_locked
        is_lost = not renewed_at and loop.time() < began_at + 30
        await asyncio.sleep(60 if is_lost else 0.01)
        renewed_at.append(loop.time() - began_at)
        return list(ids)

    store.renew, began_at = renew, loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(70):
            await heartbeat(store).beat()
    assert renewed_at == pytest.approx([40, 60], abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "asked"), [(29, ["rescue", "rescue ended"]), (31, ["renew", "rescue", "rescue ended"])]
)
async def test_a_process_that_was_suspended_renews_its_leases_before_it_rescues(seconds, asked):
    store = Store(60.0)
    take_over = TakeOver(store, heartbeat(store), endpoint=None, on_waiting=lambda _until: None)
    store.clock.advance(seconds)
    await take_over.rescue_if_due()
    assert store.asked == asked
