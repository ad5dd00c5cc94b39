"""A transaction that holds a lock for long, as of a suspended process: messages say so, and the others go on."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from sqlalchemy import update

from resonant.errors import StillLocked, StoreLocked
from resonant.store import WorkerStore, enqueue, open_store, schema
from resonant.store.engine.availability import retry_while_unavailable
from support.waiting import until, wait_until

LEASE_SECONDS = 12.0  # the server ends a transaction that was idle for a sixth of it

# Stops itself within a transaction, and reports the outcome when it continues.
_STANDS_STILL = """
import asyncio, signal, sys, threading
from sqlalchemy import update
from resonant.errors import StoreUnavailable
from resonant.store import WorkerStore, schema

def stand_still(connection):
    connection.execute(update(schema.deliveries).values(policy="stopped"))
    print("in its transaction", flush=True)
    # A signal to the process would stop the main thread first, and this thread could still commit.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

async def main(url, lease_seconds):
    store = await WorkerStore.open(url, lease_seconds=float(lease_seconds))
    try:
        await store.write(stand_still)
        print("committed")
    except StoreUnavailable as error:
        print(error)
    print(await store.unfinished())
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""

_WAITS_LONG = """SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '0.2 seconds'"""


def touch(connection):
    connection.execute(update(schema.deliveries).values(policy="touched"))


def run_sql(connection, statement):
    result = connection.exec_driver_sql(statement)
    return result.scalar() if result.returns_rows else None


@pytest.fixture
def opened(desk):
    """Open more stores with the same lease."""

    async def run(work, url, **options):
        store = await WorkerStore.open(url, clock=desk.clock, **{"lease_seconds": LEASE_SECONDS} | options)
        try:
            return await work(store)
        finally:
            await store.close()

    return lambda *args, **options: desk.run(run(*args, **options))


class TestOnPostgreSQL:
    @pytest.fixture
    def desk(self, open_desk, postgresql_url):
        desk = open_desk(postgresql_url)
        desk.enqueue("evt_1")
        return desk

    def test_others_go_on_when_the_server_has_ended_its_transaction(self, opened, postgresql_url):
        command = [sys.executable, "-c", _STANDS_STILL, postgresql_url, str(LEASE_SECONDS)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stopped,
            contextlib.ExitStack() as stack,
        ):
            stack.callback(stopped.kill)
            assert stopped.stdout.readline() == "in its transaction\n"
            os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
            opened(lambda store: store.write(touch), postgresql_url)
            os.kill(stopped.pid, signal.SIGCONT)
            error, unfinished = stopped.communicate(timeout=60)[0].splitlines()
        assert error == (
            "postgresql://postgres@/test: the server ended the connection: run the same command again"
        )
        assert unfinished == "1", "it goes on with a new connection"

    def test_a_wait_ends_after_a_time_and_is_logged_once(
        self, desk, opened, postgresql_url, caplog, monkeypatch
    ):
        monkeypatch.setattr("resonant.store.engine.postgresql._LEAST_LOCK_SECONDS", 0.0)

        async def wait_for_it(store):
            async with desk.store.transaction() as transaction:
                await transaction.run_sync(touch)
                for _ in range(2):
                    with pytest.raises(
                        StoreLocked, match="another transaction holds a lock on it: try again"
                    ):
                        await store.write(touch)

        opened(wait_for_it, postgresql_url, lease_seconds=0.6)
        assert caplog.messages == [
            "postgresql://postgres@/test: another transaction holds a lock on it: waited 0.2 s for it"
        ]

    def test_a_write_may_wait_for_locks_less_long_than_others_but_not_in_its_commit(self, desk):
        """A commit waits for others that notify, and nothing of it can be stored without them."""
        at_commit = """CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
            CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON resonant_deliveries
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()"""

        async def write():
            database = desk.store.database
            async with desk.store.transaction() as transaction:
                await transaction.run_sync(touch)
                with pytest.raises(StillLocked, match="another transaction holds a lock on it"):
                    await database.write(touch, lock_seconds=0.01)
            await database.write(
                lambda connection: [run_sql(connection, each) for each in at_commit.split(";\n")]
            )
            async with desk.store.transaction() as transaction:
                await transaction.run_sync(run_sql, "SELECT pg_advisory_xact_lock(1)")
                writing = asyncio.create_task(database.write(touch, lock_seconds=0.01))
                while not await desk.store.read(run_sql, _WAITS_LONG):
                    assert not writing.done()
            await writing

        desk.run(write())

    def test_a_transaction_of_several_steps_may_wait_for_its_caller(
        self, desk, opened, postgresql_url, monkeypatch
    ):
        monkeypatch.setattr("resonant.store.engine.postgresql._LEAST_LOCK_SECONDS", 0.0)

        async def enqueue_slowly(store):
            async with store.transaction() as transaction:
                await transaction.run_sync(enqueue, [desk.make("evt_2")], "orders", now=desk.clock())
                await asyncio.sleep(0.7)
                await transaction.run_sync(enqueue, [desk.make("evt_3")], "orders", now=desk.clock())

        opened(enqueue_slowly, postgresql_url, lease_seconds=1.2)
        assert desk.status().accepted == 3

    def test_the_bounds_hold_for_our_transactions_only(self, desk):
        def bounds(connection):
            names = ("lock_timeout", "idle_in_transaction_session_timeout")
            return [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]

        assert desk.write(bounds) == ["20s", "10s"]
        assert desk.read(bounds) == ["0", "0"]


async def test_impatient_stores_of_a_test_wait_for_each_other(impatient_sqlite, sqlite_url):
    def write_slowly(_connection):
        wait_until(lambda: len(impatient_sqlite) > 1, every=0.001)
        time.sleep(0.2)  # for longer than the impatient wait

    async with open_store(sqlite_url) as slow, open_store(sqlite_url) as quick:
        impatient_sqlite.clear()
        writing = asyncio.create_task(slow.write(write_slowly))
        await until(lambda: impatient_sqlite)
        await quick.write(touch)
        await writing


class TestOnSQLite:
    @pytest.fixture
    def desk(self, open_desk, sqlite_url):
        desk = open_desk(sqlite_url)
        desk.enqueue("evt_1")
        return desk

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        monkeypatch.setattr("resonant.store.engine.sqlite._BUSY_TIMEOUT_SECONDS", 0.3)
        monkeypatch.setattr("resonant.store.engine.sqlite._WARN_SECONDS", 0.1)

    @pytest.fixture
    def held(self, desk, tmp_path):
        """Another connection, in a transaction that writes."""
        with contextlib.closing(sqlite3.connect(tmp_path / "resonant.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield other

    def test_others_wait_log_it_in_one_line_and_go_on_when_it_ends(self, opened, sqlite_url, held, caplog):
        async def touch_patiently(store):
            writing = asyncio.create_task(retry_while_unavailable(lambda: store.write(touch), patience=0.0))
            await asyncio.sleep(1.2)  # for longer than a busy timeout and the pause after it
            assert not writing.done()
            held.rollback()
            await writing

        opened(touch_patiently, sqlite_url)
        assert caplog.messages == [f"{sqlite_url}: another process holds its lock: waiting for it"]

    def test_a_wait_ends_after_one_busy_timeout(self, opened, sqlite_url, held):
        async def wait(store):
            started = time.monotonic()
            with pytest.raises(
                StoreLocked, match="another process holds its lock: try again when it is done"
            ):
                await store.write(touch)
            return time.monotonic() - started

        assert 0.3 <= opened(wait, sqlite_url) < 3.0

    def test_a_new_process_can_open_the_store_and_read(self, opened, sqlite_url, held):
        assert opened(lambda store: store.unfinished(), sqlite_url) == 1
