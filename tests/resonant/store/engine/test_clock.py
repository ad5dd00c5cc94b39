"""The store's clock is the same for all processes, whatever their own clocks show."""

import logging
import re
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


@pytest.fixture
def near():
    """Compare with a time that was read during the test: a busy machine reads clocks late."""
    began_at = time.monotonic()
    return lambda value: pytest.approx(value, abs=time.monotonic() - began_at + 1)


def ahead_by(seconds):
    return lambda: _time() + seconds


@pytest.mark.parametrize("ahead", [40.0, -HOUR])
async def test_a_process_reads_the_stores_clock_from_the_beginning_and_new_deliveries_are_due_by_it(
    store_url, ahead, near
):
    event = Event(type="t", source="/s", id="evt_1", data=1)
    async with opened(store_url) as right, opened(store_url, process_clock=ahead_by(ahead)) as wrong:
        assert wrong.clock() == near(right.clock())
        await wrong.enqueue(event, "orders")
        [due], _ = await right.look()
    assert due.at == near(time.time())


async def test_a_transaction_of_a_producer_uses_the_clock_of_its_server(postgresql_url, monkeypatch, near):
    monkeypatch.setattr("resonant.store.engine.clock.time.time", ahead_by(HOUR))  # of the producer's machine
    async with opened(postgresql_url) as store:
        engine = create_async_engine(postgresql_url.replace("postgresql", "postgresql+asyncpg", 1))
        async with engine.begin() as connection:
            await connection.run_sync(enqueue, Event(type="t", source="/s", data=1), "orders")
        await engine.dispose()
        [due], _ = await store.look()
        assert due.at == near(store.clock())


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_nothing_changes_if_the_clock_of_the_process_is_set(store_url, seconds, near):
    jump = FixedClock(0.0)
    async with opened(store_url, process_clock=lambda: time.time() + jump()) as store:
        await store.enqueue([Event(type="t", source="/s", data=number) for number in (1, 2)], "orders")
        await send(store, "orders", Park(60, store.clock() + 60))
        await store.claim("orders", owner="one", limit=1)
        jump.advance(seconds)
        assert store.clock() == near(time.time())
        assert await store.claim("orders", owner="other", limit=2) == []
        assert len(await store.renew("one")) == 1
        assert await store.latest_lease_end() == near(time.time() + store.lease_seconds)
        assert store.clock() == near(time.time())
        assert store.clock_ahead == near(-seconds)


async def test_a_renewal_after_a_pause_of_the_machine_lasts_for_a_whole_lease(postgresql_url, near):
    pause = FixedClock(0.0)
    async with opened(postgresql_url, steady=lambda: time.monotonic() - pause()) as store:
        await store.enqueue(Event(type="t", source="/s", data=1), "orders")
        await store.claim("orders", owner="one", limit=1)
        pause.advance(50)
        await store.renew("one")
        assert await store.latest_lease_end() == near(time.time() + store.lease_seconds)


async def test_a_process_whose_time_is_behind_shortens_no_wait_and_no_lease(postgresql_url):
    """A machine that was suspended, or a server that was replaced by one whose clock is ahead, is compared first."""

    rows = select(schema.deliveries).order_by(schema.deliveries.c.id)

    async def times():
        return await right.read(lambda connection: connection.execute(rows).all())

    pause = FixedClock(0.0)
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
    [line] = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert re.fullmatch(
        r"the clock of this machine is \d\d s ahead of that of the store: synchronize them \(NTP\); "
        "Resonant uses the store's",
        line,
    )


class TestComparison:
    @pytest.fixture
    def process(self):
        return FixedClock(PROCESS)

    @pytest.fixture
    def clock(self, process):
        return StoreClock(process, process)

    def test_the_difference_stays_within_the_bounds_of_each_reading(self, clock, process):
        assert clock() == PROCESS
        process.advance(2)
        clock.compare(PROCESS + 101, PROCESS)
        assert PROCESS + 101 <= clock() <= PROCESS + 103
        before = clock()
        clock.compare(before, process())
        process.advance(4)
        clock.compare(before + 1, process() - 4)
        assert clock() == before + 4

    def test_the_difference_is_within_the_bounds_if_the_clock_of_the_process_is_set_meanwhile(self, process):
        steady = FixedClock(0.0)
        clock = StoreClock(process, steady)
        began_at = steady()
        process.advance(-HOUR)
        steady.advance(2)
        clock.compare(PROCESS + 101, began_at)
        assert PROCESS + 101 <= clock() <= PROCESS + 103
        assert clock.ahead == clock() - process()

    def test_a_difference_that_returns_is_logged_again_and_a_small_one_is_not(self, clock, caplog):
        clock.compare(PROCESS + 5, PROCESS)
        assert not caplog.records
        for ahead in (-6, 0, -6):
            clock.compare(PROCESS + ahead, PROCESS)
        assert len(caplog.records) == 2
