"""An SQLite file that is deleted or replaced while it is open: SQLite silently writes to the old one."""

import asyncio
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.errors import StoreReplaced
from resonant.store import enqueue
from support.waiting import PATIENCE_SECONDS

LINE = (
    "the file or its -wal was deleted or replaced while it was open, so the last changes are not stored: "
    "restore the file, remove the -wal and -shm of any other file next to it, then run the same command again"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "resonant.db"


@pytest.fixture
def desk(open_desk, sqlite_url):
    desk = open_desk(sqlite_url)
    desk.enqueue("evt_1")
    return desk


def delete_all(path):
    for each in path.parent.glob("resonant.db*"):
        each.unlink()


def replace_by_garbage(path):
    other = path.with_name("other")
    other.write_bytes(b"garbage " * 10_000)
    other.replace(path)


def restore_a_backup(path):
    shutil.copy(path, path.with_name("backup.db")).replace(path)


def make_a_new_one(path):
    delete_all(path)
    sqlite3.connect(path).execute("CREATE TABLE t (n)").connection.close()


WAYS = {
    "deleted": Path.unlink,
    "all deleted": delete_all,
    "log deleted": lambda path: path.with_name("resonant.db-wal").unlink(),
    "moved": lambda path: path.rename(path.with_name("before.db")),
    "replaced by garbage": replace_by_garbage,
    "overwritten": lambda path: path.write_text("garbage"),
    "restored from a backup": restore_a_backup,
    "made anew": make_a_new_one,
}


@pytest.mark.parametrize("spoil", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("work", ["store", "claim", "begin", "store in steps"])
def test_no_operation_counts_as_done_on_a_replaced_file(desk, path, spoil, work):
    """No event counts as stored, no delivery as claimed, and none is sent if its begin was lost."""

    async def run():
        store = desk.store
        if work == "store in steps":
            async with store.transaction() as transaction:
                await transaction.run_sync(enqueue, desk.make("evt_2"), "orders", now=desk.clock())
                spoil(path)
            return
        leases = await store.claim("orders", owner="worker", limit=1) if work == "begin" else []
        spoil(path)
        if work == "store":
            await store.enqueue(desk.make("evt_2"), "orders")
        elif work == "claim":
            await store.claim("orders", owner="worker", limit=1)
        else:
            await BatchWriter(store, patience=60).begin(leases)

    with pytest.raises(StoreReplaced) as failure:
        desk.run(run())
    assert str(failure.value) == f"sqlite:///{path}: {LINE}"


def test_a_connection_that_opened_the_new_file_is_not_used(desk, path):
    async def read_with_another_connection():
        reading = asyncio.create_task(desk.store.read(hold))
        await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
        restore_a_backup(path)
        try:
            await desk.store.unfinished()
        finally:
            done.set()
            await reading

    def hold(_connection):
        begun.set()
        done.wait(PATIENCE_SECONDS)

    begun, done = threading.Event(), threading.Event()
    with pytest.raises(StoreReplaced):
        desk.run(read_with_another_connection())


def test_writes_of_other_processes_are_no_replacement(desk, open_desk, sqlite_url, path):
    """Checkpoints, reclaimed pages, and the last other process closing the file."""
    desk.enqueue(*(desk.make(f"evt_{number}", "x" * 1_000) for number in range(2, 500)))
    open_desk(sqlite_url).enqueue("evt_other")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("DELETE FROM resonant_deliveries WHERE event_key > 10")
    connection.close()
    desk.run(desk.store.reclaim_space())
    os.utime(path)
    assert desk.enqueue("evt_after").accepted == 1
