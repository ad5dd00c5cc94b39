"""PostgreSQL under pressure while a drain sends: nothing is lost, and nothing is sent twice.

Short forms of ``python -m benches pressure``, which measures rates. ``test_faults_store.py`` restarts PostgreSQL, and
``test_kills.py`` kills the sender.
"""

import asyncio
import contextlib

import asyncpg
import pytest
from faults import DATABASE, EVERY_LANE, Fault

from support.postgresql import started_postgresql
from support.waiting import until

pytestmark = pytest.mark.slow

_EVENTS = 1_000
_CUTS, _BETWEEN_CUTS_SECONDS = 15, 0.2
_MOST_CONNECTIONS = 100
_CUT_ONE_SESSION = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"""
_READERS = 4
_READ = "SELECT count(*), max(md5(d::text)) FROM resonant_deliveries d, generate_series(1, 20)"
_PIN_XMIN = "SELECT txid_current(), count(*) FROM resonant_deliveries"


@pytest.fixture(scope="module")
def server():
    with started_postgresql() as started:
        yield started


@pytest.fixture
def fault(server, receiver, lane):
    return Fault(server.empty_database(DATABASE), receiver, lane)


@contextlib.asynccontextmanager
async def draining(fault):
    """Start a drain that has sent a tenth of the events; after the block, wait until all are settled."""
    await fault.enqueue(_EVENTS)
    drain = asyncio.create_task(fault.emit(successors=2))
    try:
        await fault.when_received(_EVENTS // 10)
        yield
        await until(fault.is_settled, seconds=50, every=0.5)
        assert not drain.done(), "it outlasts the pressure"
    finally:
        drain.cancel()
        await asyncio.wait([drain])


@EVERY_LANE
async def test_a_stream_of_terminated_sessions_loses_nothing(server, fault):
    async with draining(fault), server.connected(DATABASE) as connection:
        for _ in range(_CUTS):
            await connection.execute(_CUT_ONE_SESSION)
            await asyncio.sleep(_BETWEEN_CUTS_SECONDS)
    assert (await asyncio.to_thread(fault.account))["delivered"] == _EVENTS


@EVERY_LANE
async def test_a_drain_goes_on_when_others_take_every_connection(server, fault):
    async with draining(fault), fault.opened_store() as store, contextlib.AsyncExitStack() as stack:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            for _ in range(_MOST_CONNECTIONS):
                await stack.enter_async_context(server.connected(DATABASE))
        # A fast drain may have sent everything before the last connection is open.
        await fault.enqueue(1, store=store)
        await fault.when_received(_EVENTS + 1)
    assert (await asyncio.to_thread(fault.account))["delivered"] == _EVENTS + 1


@EVERY_LANE
async def test_old_transactions_lose_nothing(server, fault):
    async with draining(fault), contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            connection = await stack.enter_async_context(server.connected(DATABASE))
            await stack.enter_async_context(connection.transaction(isolation="repeatable_read"))
            await connection.execute(_PIN_XMIN)
        sent = fault.requests
        await until(lambda: fault.requests > sent + _EVENTS // 4)
        assert await connection.fetchval("SELECT count(*) FROM resonant_deliveries") == _EVENTS
    assert (await asyncio.to_thread(fault.account))["delivered"] == _EVENTS


@EVERY_LANE
async def test_heavy_readers_lose_nothing(server, fault):
    async def read():
        async with (
            server.connected(DATABASE) as connection,
            connection.transaction(isolation="repeatable_read"),
        ):
            while True:
                await connection.execute(_READ)

    async with draining(fault), asyncio.TaskGroup() as group:
        readers = [group.create_task(read()) for _ in range(_READERS)]
        sent = fault.requests
        await until(lambda: fault.requests > sent + _EVENTS // 4)
        for reader in readers:
            reader.cancel()
    assert (await asyncio.to_thread(fault.account))["delivered"] == _EVENTS


@EVERY_LANE
async def test_more_events_than_a_drain_can_send_are_sent_later(fault):
    async with draining(fault):
        await fault.enqueue(_EVENTS)
        assert not await fault.is_settled()
    assert (await asyncio.to_thread(fault.account))["delivered"] == 2 * _EVENTS
