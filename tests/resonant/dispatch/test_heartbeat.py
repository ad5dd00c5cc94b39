import asyncio

import pytest

from resonant.dispatch.heartbeat import LeaseHeartbeat
from resonant.dispatch.in_flight import InFlight
from resonant.errors import StoreUnavailable
from resonant.events import Event, Lease
from resonant.testing import FixedClock
from support.waiting import until

START = 1_700_000_000.0


class Store:
    """Notes what is renewed, and fails as often as it is told to."""

    def __init__(self, lease_seconds=60.0, failures=()):
        self.clock = FixedClock(START)
        self.lease_seconds = lease_seconds
        self.renewed = []
        self.failures = list(failures)

    async def renew(self, owner, delivery_ids):
        if self.failures:
            raise self.failures.pop()
        self.renewed.append((owner, delivery_ids))


def heartbeat(store, *, held=(7,), on_failure=pytest.fail):
    in_flight = InFlight()
    for delivery_id in held:
        in_flight.take(Lease(delivery_id, 1, "me", Event(type="t", source="/s", data=1), "orders"))
    return LeaseHeartbeat(store, "me", in_flight, on_failure)


async def test_what_is_in_hand_is_renewed_three_times_in_the_time_that_a_lease_lasts():
    store = Store(lease_seconds=0.03)
    renewing = heartbeat(store)
    renewing.start()
    await until(lambda: len(store.renewed) >= 3)
    await renewing.stop()
    number = len(store.renewed)
    await asyncio.sleep(0.03)
    assert len(store.renewed) == number, "once it was stopped, no more"
    assert set(map(repr, store.renewed)) == {"('me', {7})"}


async def test_with_empty_hands_the_store_is_left_alone():
    store = Store(lease_seconds=0.003)
    renewing = heartbeat(store, held=())
    renewing.start()
    await asyncio.sleep(0.03)
    await renewing.stop()
    assert store.renewed == []


async def test_a_store_that_is_away_for_a_moment_ends_no_renewal():
    store = Store(lease_seconds=0.003, failures=[StoreUnavailable("away")] * 2)
    renewing = heartbeat(store)
    renewing.start()
    await until(lambda: store.renewed)
    await renewing.stop()


async def test_an_unexpected_error_ends_it_and_is_reported():
    store, told = Store(lease_seconds=0.003, failures=[error := RuntimeError("broken")]), []
    renewing = heartbeat(store, on_failure=told.append)
    renewing.start()
    await until(lambda: told)
    await renewing.stop()
    assert told == [error]


async def test_it_catches_up_only_where_it_is_overdue():
    store = Store(lease_seconds=60.0)
    renewing = heartbeat(store)
    store.clock.advance(29)
    await renewing.catch_up()
    assert store.renewed == []
    store.clock.advance(2)
    await renewing.catch_up()
    await renewing.catch_up()
    assert len(store.renewed) == 1
