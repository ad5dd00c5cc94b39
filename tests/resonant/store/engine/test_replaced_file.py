"""An SQLite file that is deleted or replaced while it is open: SQLite silently writes to the old one."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading

import pytest

from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.errors import StoreReplaced
from resonant.store import enqueue

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


def delete(path):
    path.unlink()


def delete_all(path):
    for each in path.parent.glob("resonant.db*"):
        each.unlink()


def delete_the_log(path):
    path.with_name("resonant.db-wal").unlink()


def move_away(path):
    path.rename(path.with_name("before.db"))


def replace_by_garbage(path):
    other = path.with_name("other")
    other.write_bytes(b"garbage " * 10_000)
    other.replace(path)


def overwrite(path):
    path.write_text("garbage")


def restore_a_backup(path):
    backup = path.with_name("backup.db")
    shutil.copy(path, backup)
    backup.replace(path)


def make_a_new_one(path):
    delete_all(path)
    sqlite3.connect(path).execute("CREATE TABLE t (n)").connection.close()


EVERY_WAY = pytest.mark.parametrize(
    "spoil",
    [
        delete,
        delete_all,
        delete_the_log,
        move_away,
        replace_by_garbage,
        overwrite,
        restore_a_backup,
        make_a_new_one,
    ],
)


@EVERY_WAY
def test_no_event_counts_as_stored(desk, path, spoil):
    spoil(path)
    with pytest.raises(StoreReplaced) as failure:
        desk.enqueue("evt_2")
    assert str(failure.value) == f"sqlite:///{path}: {LINE}"


@EVERY_WAY
def test_no_delivery_counts_as_claimed(desk, path, spoil):
    spoil(path)
    with pytest.raises(StoreReplaced):
        desk.claim()


@EVERY_WAY
def test_no_delivery_is_sent_if_its_begin_was_lost(desk, path, spoil):
    async def begin():
        await BatchWriter(desk.store, patience=60).begin([lease])

    lease = desk.claim_one()
    spoil(path)
    with pytest.raises(StoreReplaced):
        desk.run(begin())


@EVERY_WAY
def test_a_transaction_of_several_steps_fails_too(desk, path, spoil):
    async def enqueue_in_steps():
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(enqueue, [desk.make("evt_2")], "orders", now=desk.clock())
            spoil(path)

    with pytest.raises(StoreReplaced):
        desk.run(enqueue_in_steps())


def test_a_connection_that_opened_the_new_file_is_not_used(desk, path):
    async def read_with_another_connection():
        reading = asyncio.create_task(desk.store.read(hold))
        await asyncio.to_thread(begun.wait, 30)
        restore_a_backup(path)
        try:
            await desk.store.unfinished()
        finally:
            done.set()
            await reading

    def hold(_connection):
        begun.set()
        done.wait(30)

    begun, done = threading.Event(), threading.Event()
    with pytest.raises(StoreReplaced):
        desk.run(read_with_another_connection())


def test_writes_of_other_processes_are_no_replacement(desk, open_desk, sqlite_url, path):
    """Checkpoints, reclaimed pages, and the last other process closing the file."""
    events = [desk.make(f"evt_{number}", "x" * 1_000) for number in range(2, 2_000)]
    desk.enqueue(*events)
    other = open_desk(sqlite_url)
    other.enqueue("evt_other")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("DELETE FROM resonant_deliveries WHERE event_id LIKE 'evt_1%'")
    connection.close()
    desk.run(desk.store.reclaim_space())
    os.utime(path)
    assert desk.enqueue("evt_after").accepted == 1
