"""A transaction that holds a lock for long, as of a suspended process: messages say so, and the others go on."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from resonant.errors import StillLocked, StoreLocked
from resonant.store import enqueue, schema
from resonant.store.engine.availability import retry_while_unavailable
from support.dispatching import opened
from support.postgresql import on_postgresql
from support.sqlite import locked, on_sqlite, write_transactions
from support.waiting import PATIENCE_SECONDS, until

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


@pytest.fixture
def desk(desk):
    desk.enqueue("evt_1")
    return desk


def touch(connection):
    connection.execute(update(schema.deliveries).values(policy="touched"))


def run_sql(connection, statement):
    result = connection.exec_driver_sql(statement)
    return result.scalar() if result.returns_rows else None


@on_postgresql
class TestOnPostgreSQL:
    @pytest.fixture
    def opened(self, desk, store_url):
        """Open a second store for a coroutine."""

        async def run(work, lease_seconds=LEASE_SECONDS):
            async with opened(store_url, clock=desk.clock, lease_seconds=lease_seconds) as store:
                return await work(store)

        return lambda *args, **options: desk.run(run(*args, **options))

    def test_others_go_on_when_the_server_has_ended_its_transaction(self, opened, store_url):
        command = [sys.executable, "-c", _STANDS_STILL, store_url, str(LEASE_SECONDS)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stopped,
            contextlib.ExitStack() as stack,
        ):
            stack.callback(stopped.kill)
            assert stopped.stdout.readline() == "in its transaction\n"
            os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
            opened(lambda store: store.write(touch))
            os.kill(stopped.pid, signal.SIGCONT)
            error, unfinished = stopped.communicate(timeout=60)[0].splitlines()
        assert error == (
            "postgresql://postgres@/store: the server ended the connection: run the same command again"
        )
        assert unfinished == "1", "it goes on with a new connection"

    def test_a_wait_ends_after_a_time_and_is_logged_once(self, desk, opened, caplog, monkeypatch):
        monkeypatch.setattr("resonant.store.engine.postgresql._LEAST_LOCK_SECONDS", 0.0)

        async def wait_for_it(store):
            # The server ends no transaction that a stalled machine leaves idle.
            monkeypatch.setattr(store.database, "_idle_seconds", PATIENCE_SECONDS)
            async with desk.store.transaction() as transaction:
                await transaction.run_sync(touch)
                for _ in range(2):
                    with pytest.raises(
                        StoreLocked, match="another transaction holds a lock on it: try again"
                    ):
                        await store.write(touch)

        opened(wait_for_it, lease_seconds=0.6)
        assert caplog.messages == [
            "postgresql://postgres@/store: another transaction holds a lock on it: waited 0.2 s for it"
        ]

    def test_a_transaction_of_several_steps_may_wait_for_its_caller(self, desk, opened, monkeypatch):
        monkeypatch.setattr("resonant.store.engine.postgresql._LEAST_LOCK_SECONDS", 0.0)

        async def enqueue_slowly(store):
            async with store.transaction() as transaction:
                await transaction.run_sync(enqueue, [desk.make("evt_2")], "orders", now=desk.clock())
                await asyncio.sleep(0.15)  # longer than the server lets other transactions idle
                await transaction.run_sync(enqueue, [desk.make("evt_3")], "orders", now=desk.clock())

        opened(enqueue_slowly, lease_seconds=0.3)
        assert desk.status().accepted == 3

    def test_the_bounds_hold_for_our_transactions_only(self, desk):
        def bounds(connection):
            names = ("lock_timeout", "idle_in_transaction_session_timeout")
            return [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]

        assert desk.write(bounds) == ["20s", "10s"]
        assert desk.read(bounds) == ["0", "0"]


def test_a_write_may_wait_for_locks_less_long_than_others_but_not_in_its_commit(open_desk, postgresql_url):
    """A commit waits for others that notify, and nothing of it can be stored without them."""
    desk = open_desk(postgresql_url)
    desk.enqueue("evt_1")
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
            await until(lambda: writing.done() or desk.store.read(run_sql, _WAITS_LONG))
            assert not writing.done()
        await writing

    desk.run(write())


@on_sqlite
class TestOnSQLite:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        monkeypatch.setattr("resonant.store.engine.sqlite._BUSY_TIMEOUT_SECONDS", 0.2)
        monkeypatch.setattr("resonant.store.engine.sqlite._WARN_SECONDS", 0.1)

    @pytest.fixture
    def tries(self):
        """The write transactions that were begun, or tried to."""
        with write_transactions("begin") as tries:
            yield tries

    @pytest.fixture
    def other(self, desk, store_url, tries):
        """Another connection, in a transaction that writes."""
        with locked(Path(store_url.removeprefix("sqlite:///"))) as other:
            tries.clear()
            yield other

    def test_others_wait_log_it_in_one_line_and_go_on_when_it_ends(self, desk, other, tries, caplog):
        async def touch_patiently():
            write = partial(desk.store.write, touch)
            writing = asyncio.create_task(retry_while_unavailable(write, patience=0.0))
            await until(lambda: len(tries) > 1)
            other.rollback()
            await writing

        desk.run(touch_patiently())
        assert caplog.messages == [f"{desk.store}: another process holds its lock: waiting for it"]

    def test_a_wait_ends_after_one_busy_timeout(self, desk, other, tries):
        started = time.monotonic()
        with pytest.raises(StoreLocked, match="another process holds its lock: try again when it is done"):
            desk.write(touch)
        assert time.monotonic() - started >= 0.2
        assert len(tries) == 1

    def test_a_new_process_can_open_the_store_and_read(self, open_desk, store_url, other):
        assert open_desk(store_url).status().accepted == 1
