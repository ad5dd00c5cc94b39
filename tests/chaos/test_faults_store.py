"""The store goes away and comes back while an emission runs, is under pressure, or is locked by another process.

``python -m benches pressure`` measures rates under pressure, and ``test_kills.py`` kills the sender.
"""

import asyncio
import contextlib
from pathlib import Path

import asyncpg
import pytest
from faults import (
    AUTO_LANE_FIRST,
    BULK_LANE_FIRST,
    DATABASE,
    IS_LONG,
    LANES,
    TASK_LANE_FIRST,
    Fault,
    most_begun,
)

from resonant.errors import StoreUnavailable
from support.postgresql import relayed
from support.sqlite import locked, write_transactions
from support.waiting import until

# Longer than the pause before another try: a store that fails each try counts as unavailable.
_BETWEEN_CUTS_SECONDS = 0.7
# Without an end, the few transactions of a run that waits for a lease would be hit each time.
_MOST_CUTS = 5 if IS_LONG else 3
_END_TRANSACTIONS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"""
_EVENTS = 1_000
_MOST_CONNECTIONS = 100
_READERS = 4
# Within a transaction that has an id, so that no dead row is removed meanwhile.
_BEGIN_TO_READ = "SELECT txid_current()"
_READ = "SELECT count(*), max(md5(d::text)) FROM resonant_deliveries d, generate_series(1, 20)"


@pytest.fixture
def make_fault(receiver, lane):
    def make(url: str, **fields) -> Fault:
        return Fault(url, receiver, lane, **fields)

    return make


class TestPostgreSQLRestarts:
    @pytest.mark.parametrize(
        ("lane", "way"),
        [
            ("task", "crashed"),
            ("bulk", "stopped"),
            *([("task", "stopped"), ("auto", "crashed")] if IS_LONG else []),
        ],
    )
    async def test_a_short_outage_changes_nothing(self, own_postgresql, shaken_url, make_fault, way):
        # PostgreSQL must be back within a third of the lease, which takes a busy machine half a minute.
        fault = make_fault(shaken_url, lease_seconds=600.0)

        emitting = await fault.started(500, received=100)
        async with own_postgresql.stopped_meanwhile(crashes=way == "crashed"):
            await fault.when_refused()
            assert not emitting.done()
        assert (await emitting).delivered == 500
        await asyncio.to_thread(fault.account)

    @AUTO_LANE_FIRST
    async def test_a_long_outage_ends_the_run_in_one_line_and_the_next_run_continues(
        self, own_postgresql, shaken_url, make_fault, lane
    ):
        fault = make_fault(shaken_url, lease_seconds=1.5)

        emitting = await fault.started(500, received=100)
        async with own_postgresql.stopped_meanwhile():
            with pytest.raises(StoreUnavailable, match=r"^postgresql://postgres@/faults: [^\n]+$"):
                await emitting
        await fault.emit_all()
        await asyncio.to_thread(fault.account, most_twice=most_begun(lane))

    async def test_an_acknowledged_event_survives_a_crash_of_a_server_that_does_not_sync_by_default(
        self, own_postgresql, shaken_url, receiver
    ):
        not_by_default = f"ALTER DATABASE {DATABASE} SET synchronous_commit"
        await asyncio.to_thread(own_postgresql.execute, f"{not_by_default} = off")
        fault = Fault(shaken_url, receiver)
        async with fault.opened_store() as store:
            await fault.enqueue(30, store=store)
            async with own_postgresql.stopped_meanwhile(crashes=True):
                pass
            assert (await store.status()).pending == 30
        await asyncio.to_thread(own_postgresql.execute, f"{not_by_default} TO DEFAULT")


class TestPostgreSQLLosesConnections:
    # A run waits out an outage for a third of its lease: longer than all cuts take if each hits the same operation.
    _LEASE_SECONDS = 120.0

    @TASK_LANE_FIRST
    @pytest.mark.slow
    async def test_in_the_middle_of_transactions_again_and_again(
        self, own_postgresql, shaken_url, make_fault
    ):
        fault = make_fault(shaken_url, lease_seconds=self._LEASE_SECONDS)

        async def cut():
            """End the sessions that are within a transaction, as soon as some are found, and again after a while."""
            async with own_postgresql.connected(DATABASE) as connection:
                while sum(cuts) < _MOST_CUTS:
                    found = await connection.fetchval(_END_TRANSACTIONS)
                    cuts.append(found)
                    await asyncio.sleep(_BETWEEN_CUTS_SECONDS if found else 0.001)

        cuts: list[int] = []
        emitting = await fault.started(1000, received=1)
        cutting = asyncio.create_task(cut())
        summary = await emitting
        cutting.cancel()
        await asyncio.wait([cutting])
        assert summary.delivered == 1000
        assert sum(cuts) >= 2
        await asyncio.to_thread(fault.account)

    @AUTO_LANE_FIRST
    async def test_after_a_commit_without_an_answer(self, shaken_url, make_fault):
        """The server has committed, but no answer arrives: the run repeats the write, and it is counted once."""
        fault = make_fault(shaken_url, lease_seconds=self._LEASE_SECONDS)

        async with relayed(shaken_url) as relay:
            fault.url = relay.url
            emitting = await fault.started(400, received=1)
            while not emitting.done():
                relay.lose = int(relay.lost < _MOST_CUTS)
                await asyncio.wait([emitting], timeout=_BETWEEN_CUTS_SECONDS)
            summary = await emitting
        fault.url = shaken_url
        assert summary.delivered == 400
        assert relay.lost >= 3
        await asyncio.to_thread(fault.account)


@contextlib.asynccontextmanager
async def draining(fault):
    """Start a drain that has sent a tenth of the events; after the block, wait until all are settled."""
    await fault.enqueue(_EVENTS)
    drain = asyncio.create_task(fault.emit(successors=2))
    try:
        await fault.when_received(_EVENTS // 10)
        yield
        await until(fault.is_settled, every=0.25)
        assert not drain.done(), "it outlasts the pressure"
    finally:
        drain.cancel()
        await asyncio.wait([drain])


@pytest.mark.slow
class TestPostgreSQLIsUnderPressure:
    @TASK_LANE_FIRST
    async def test_a_drain_goes_on_when_others_take_every_connection(
        self, own_postgresql, shaken_url, make_fault
    ):
        fault = make_fault(shaken_url)

        async with draining(fault), fault.opened_store() as store, contextlib.AsyncExitStack() as stack:
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                for _ in range(_MOST_CONNECTIONS):
                    await stack.enter_async_context(own_postgresql.connected(DATABASE))
            # A fast drain may have sent everything before the last connection is open.
            await fault.enqueue(1, store=store)
            await fault.when_received(_EVENTS + 1)
        assert (await asyncio.to_thread(fault.account))["delivered"] == _EVENTS + 1

    @BULK_LANE_FIRST
    async def test_heavy_readers_in_old_transactions_lose_nothing(
        self, own_postgresql, shaken_url, make_fault
    ):
        fault = make_fault(shaken_url)

        async def read():
            async with (
                own_postgresql.connected(DATABASE) as connection,
                connection.transaction(isolation="repeatable_read"),
            ):
                await connection.execute(_BEGIN_TO_READ)
                while True:
                    await connection.execute(_READ)

        async with draining(fault), asyncio.TaskGroup() as group:
            readers = [group.create_task(read()) for _ in range(_READERS)]
            sent = fault.requests
            await until(lambda: fault.requests > sent + _EVENTS // 4)
            assert not any(each.done() for each in readers)
            for reader in readers:
                reader.cancel()
        assert (await asyncio.to_thread(fault.account))["delivered"] == _EVENTS


def database_of(fault: Fault) -> Path:
    return Path(fault.url.removeprefix("sqlite:///"))


@contextlib.asynccontextmanager
async def lock_that_others_wait_for(database: Path):
    """Hold the write lock until after a transaction has asked for it."""
    with locked(database), write_transactions("begin") as asked:
        yield
        await until(lambda: asked)


class TestSQLiteIsLockedByAnotherProcess:
    @TASK_LANE_FIRST
    async def test_and_a_producer_waits_for_it(self, sqlite_url, make_fault):
        fault = make_fault(sqlite_url)

        await fault.enqueue(1)
        async with lock_that_others_wait_for(database_of(fault)):
            storing = asyncio.create_task(fault.enqueue(100))
        await storing
        await fault.emit_all()
        assert fault.account()["delivered"] == 101

    @TASK_LANE_FIRST
    async def test_for_less_than_its_busy_timeout_and_nothing_changes(self, sqlite_url, make_fault):
        fault = make_fault(sqlite_url)

        emitting = await fault.started(300, received=60)
        async with lock_that_others_wait_for(database_of(fault)):
            pass
        assert (await emitting).delivered == 300
        fault.account()

    @LANES
    async def test_for_longer_than_its_busy_timeout_and_nothing_changes(
        self, sqlite_url, make_fault, monkeypatch
    ):
        monkeypatch.setattr("resonant.store.engine.sqlite._BUSY_TIMEOUT_SECONDS", 0.2)
        fault = make_fault(sqlite_url)

        emitting = await fault.started(300, received=60)
        with locked(database_of(fault)):
            await fault.when_refused()
            assert not emitting.done()
        assert (await emitting).delivered == 300
        fault.account()

    @AUTO_LANE_FIRST
    async def test_a_lock_held_for_longer_than_the_lease_is_reported_and_the_run_goes_on(
        self, sqlite_url, make_fault, monkeypatch, lane, caplog
    ):
        monkeypatch.setattr("resonant.store.engine.sqlite._BUSY_TIMEOUT_SECONDS", 0.2)
        fault = make_fault(sqlite_url, lease_seconds=1.5)

        def reports() -> list[str]:
            return [each for each in caplog.messages if "lock" in each]

        emitting = await fault.started(300, received=60)
        with locked(database_of(fault)):
            await until(lambda: reports() and fault.all_leases_have_expired())
            assert not emitting.done()
        await emitting
        [line] = reports()
        assert line.endswith("/resonant.db: another process holds its lock: waiting for it")
        fault.account(most_twice=most_begun(lane))
