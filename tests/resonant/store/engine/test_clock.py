"""The store's clock is the same for all processes, whatever their own clocks show."""

import logging
import time

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine

from resonant import enqueue
from resonant.delivery.retry import Park
from resonant.events import Event
from resonant.store import schema
from resonant.store.engine.clock import StoreClock
from resonant.testing import FixedClock
from support.desk import at_once, send
from support.dispatching import opened

HOUR = 3_600.0
PROCESS = 1_000.0


_time = time.time


def ahead_by(seconds):
    return lambda: _time() + seconds


@pytest.mark.parametrize("ahead", [40.0, -40.0])
async def test_a_process_reads_the_stores_clock_from_the_beginning(store_url, ahead):
    async with opened(store_url) as right, opened(store_url, process_clock=ahead_by(ahead)) as wrong:
        assert wrong.clock() == pytest.approx(right.clock(), abs=2)


async def test_new_deliveries_are_due_by_the_stores_clock(store_url):
    event = Event(type="t", source="/s", id="evt_1", data=1)
    async with opened(store_url, process_clock=ahead_by(HOUR)) as producer:
        await producer.enqueue(event, "orders")
        [due], _ = await producer.look()
    assert due.at == pytest.approx(time.time(), abs=30)


async def test_a_transaction_of_a_producer_uses_the_clock_of_its_server(postgresql_url, monkeypatch):
    monkeypatch.setattr("resonant.store.engine.clock.time.time", ahead_by(HOUR))  # of the producer's machine
    async with opened(postgresql_url) as store:
        engine = create_async_engine(postgresql_url.replace("postgresql", "postgresql+asyncpg", 1))
        async with engine.begin() as connection:
            await connection.run_sync(enqueue, Event(type="t", source="/s", data=1), "orders")
        await engine.dispose()
        [due], _ = await store.look()
        assert due.at == pytest.approx(store.clock(), abs=30)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_the_stores_time_does_not_change_if_the_clock_of_the_process_is_set(store_url, seconds):
    jump = FixedClock(0.0)
    async with opened(store_url, process_clock=lambda: time.time() + jump()) as store:
        jump.advance(seconds)
        assert store.clock() == pytest.approx(time.time(), abs=2)
        await store.status()
        assert store.clock() == pytest.approx(time.time(), abs=2)
        assert store.clock_ahead == pytest.approx(-seconds, abs=2)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_leases_and_parked_deliveries_keep_their_times_if_the_clock_of_the_process_is_set(
    store_url, seconds
):
    jump = FixedClock(0.0)
    async with opened(store_url, process_clock=lambda: time.time() + jump()) as store:
        await store.enqueue([Event(type="t", source="/s", data=number) for number in (1, 2)], "orders")
        await send(store, "orders", Park(60, store.clock() + 60))
        await store.claim("orders", owner="one", limit=1)
        jump.advance(seconds)
        assert await store.claim("orders", owner="other", limit=2) == []
        assert len(await store.renew("one")) == 1
        assert await store.latest_lease_end() == pytest.approx(time.time() + store.lease_seconds, abs=10)


async def test_a_renewal_after_a_pause_of_the_machine_lasts_for_a_whole_lease(postgresql_url):
    pause = FixedClock(0.0)
    async with opened(postgresql_url, steady=lambda: time.monotonic() - pause()) as store:
        await store.enqueue(Event(type="t", source="/s", data=1), "orders")
        await store.claim("orders", owner="one", limit=1)
        pause.advance(50)
        await store.renew("one")
        assert await store.latest_lease_end() == pytest.approx(time.time() + store.lease_seconds, abs=10)


async def test_a_process_whose_time_is_behind_shortens_no_wait_and_no_lease(postgresql_url):
    """A machine that was suspended, or a server that was replaced by one whose clock is ahead, is compared first."""

    async def times():
        return await right.read(lambda connection: connection.execute(select(*columns).order_by(_d.id)).all())

    _d, pause = schema.deliveries.c, FixedClock(0.0)
    columns = (_d.available_at, _d.next_attempt_at, _d.round_started_at, _d.lease_owner)
    async with (
        opened(postgresql_url) as right,
        opened(postgresql_url, steady=lambda: time.monotonic() - pause()) as wrong,
    ):
        await right.enqueue([Event(type="t", source="/s", data=number) for number in (1, 2)], "orders")
        await send(right, "orders", Park(60, right.clock() + 60))
        await right.claim("orders", owner="alive", limit=1)
        before = await times()
        pause.advance(50)
        assert await wrong.rescue(at_once()) == 0
        assert await times() == before


async def test_a_difference_is_logged_once(store_url, caplog):
    async with opened(store_url, process_clock=ahead_by(40.0)) as store:
        for _ in range(3):
            await store.gates()
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == [
        "the clock of this machine is 40 s ahead of that of the store: synchronize them (NTP); Resonant uses the store's"
    ]


class TestComparison:
    @pytest.fixture
    def process(self):
        return FixedClock(PROCESS)

    @pytest.fixture
    def clock(self, process):
        return StoreClock(process, process)

    def test_the_stores_time_is_that_of_the_process_until_the_first(self, clock):
        assert clock() == PROCESS

    def test_the_difference_is_within_the_time_that_the_reading_took(self, clock, process):
        process.advance(2)
        clock.compare(PROCESS + 101, PROCESS)
        assert PROCESS + 101 <= clock() <= PROCESS + 103

    def test_the_difference_stays_while_it_is_within_the_bounds(self, clock, process):
        clock.compare(PROCESS + 100, PROCESS)
        process.advance(4)
        clock.compare(PROCESS + 101, PROCESS)
        assert clock() == PROCESS + 104

    def test_the_difference_is_within_the_bounds_if_the_clock_of_the_process_is_set_meanwhile(self, process):
        clock = StoreClock(process, steady := FixedClock(0.0))
        began_at = steady()
        process.advance(-HOUR)
        steady.advance(2)
        clock.compare(PROCESS + 101, began_at)
        assert PROCESS + 101 <= clock() <= PROCESS + 103
        assert clock.ahead == clock() - process()

    def test_small_differences_are_not_logged(self, clock, caplog):
        clock.compare(PROCESS + 5, PROCESS)
        assert not caplog.records

    def test_a_difference_that_returns_is_logged_again(self, clock, caplog):
        for ahead in (-6, 0, -6):
            clock.compare(PROCESS + ahead, PROCESS)
        assert len(caplog.records) == 2
