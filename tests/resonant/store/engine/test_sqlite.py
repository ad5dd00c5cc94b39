"""The file of a store: its mode, its folder, full disks."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from resonant.delivery.retry import GiveUp
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.errors import StoreUnavailable
from resonant.store import WorkerStore
from resonant.store.engine import sqlite
from resonant.store.engine.sqlite import SQLite
from support.programs import in_namespace
from support.sqlite import listening

FULL = 2  # SQLite's number for synchronous=FULL


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def refusal(url: str) -> str:
    with pytest.raises(StoreUnavailable) as failure:
        await WorkerStore.open(url)
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.fixture
def permissive_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_connections_that_create_the_same_file_at_once_wait_for_each_other(tmp_path):
    """SQLite itself answers "database is locked" at once, about once in a hundred rounds."""

    def connect(path, ready):
        ready.wait()
        asyncio.run(read(path))

    async def read(path):
        database = SQLite(make_url(f"sqlite:///{path}"))
        await database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
        await database.close()

    with ThreadPoolExecutor(4) as threads:
        for round_ in range(100):
            ready = Barrier(4)
            opening = [threads.submit(connect, tmp_path / f"{round_}.db", ready) for _ in range(4)]
            for each in opening:
                each.result()


@pytest.mark.usefixtures("permissive_umask")
def test_new_files_and_folders_are_private_to_their_owner(tmp_path, open_desk):
    folder = tmp_path / "new" / "folder"
    open_desk(f"sqlite:///{folder}/resonant.db").enqueue("evt_1")
    assert mode(folder) == mode(folder.parent) == 0o700
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["resonant.db", "resonant.db-shm", "resonant.db-wal"]
    assert {mode(file) for file in files} == {0o600}


def test_modes_that_were_chosen_are_left_alone(tmp_path, open_desk):
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    path = folder / "resonant.db"
    path.touch()
    path.chmod(0o644)
    open_desk(f"sqlite:///{path}").enqueue("evt_1")
    assert (mode(folder), mode(path)) == (0o755, 0o644)


@pytest.mark.parametrize(
    "name", ["plain.db", "with space.db", "per%cent.db", "ques?tion.db", "ümlaut.db", "a:b.db"]
)
def test_a_path_may_have_any_character_that_is_quoted(tmp_path, open_desk, name):
    desk = open_desk(f"sqlite:///{tmp_path}/{quote(name)}")
    desk.enqueue("evt_1")
    assert str(desk.store) == f"sqlite:///{tmp_path / name}"
    assert (tmp_path / name).is_file()


def test_a_path_in_the_home_is_found(tmp_path, open_desk, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    open_desk("sqlite:///~/.resonant/resonant.db").enqueue("evt_1")
    assert (tmp_path / ".resonant" / "resonant.db").is_file()


def test_readers_do_not_wait_for_writers_and_writers_wait_for_each_other(open_desk, sqlite_url):
    def pragmas(connection):
        names = ("journal_mode", "foreign_keys", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    desk = open_desk(sqlite_url)
    assert desk.read(pragmas) == desk.write(pragmas) == ["wal", 1, 30_000]


@pytest.fixture
def syncs():
    """Whether each write transaction synced its commit to the disk."""
    found = []

    def look(connection):
        if connection.get_execution_options().get("write"):
            found.append(connection.exec_driver_sql("PRAGMA synchronous").scalar() == FULL)

    with listening("commit", look):
        yield found


def test_only_changes_of_leases_are_not_synced(open_desk, sqlite_url, syncs):
    desk = open_desk(sqlite_url)
    syncs.clear()
    desk.enqueue("evt_1", "evt_2")
    assert syncs == [True]

    syncs.clear()
    first, second = desk.claim()
    desk.begin(first, second)
    desk.run(desk.store.renew("worker"))
    desk.run(desk.store.release([second]))
    assert syncs == [False, False, False, False]

    syncs.clear()
    desk.record(desk.failed(first, GiveUp("permanent")))
    desk.replay()
    desk.rescue()
    assert syncs == [True, True, True]


def test_a_batch_is_synced_if_it_has_an_outcome(open_desk, sqlite_url, syncs):
    async def begin_and_record():
        writer = BatchWriter(desk.store)
        await writer.begin([lease])
        await writer.record(desk.delivered(lease))

    desk = open_desk(sqlite_url)
    desk.enqueue("evt_1")
    lease = desk.claim_one()
    syncs.clear()
    desk.run(begin_and_record())
    assert syncs == [False, True]


def test_without_a_write_ahead_log_every_commit_is_synced(open_desk, sqlite_url, syncs, monkeypatch):
    """An unsynced commit could damage the file then. Some file systems allow no log."""
    without_log = tuple(each.replace("WAL", "DELETE") for each in sqlite._PRAGMAS)
    monkeypatch.setattr(sqlite, "_PRAGMAS", without_log)
    desk = open_desk(sqlite_url)
    desk.enqueue("evt_1")
    desk.claim_one()
    assert syncs[-2:] == [True, True]


def test_a_new_file_can_give_freed_pages_back_and_a_used_one_is_opened_without_writing(sqlite_url, open_desk):
    def changes(connection):
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("auto_vacuum", "data_version")
        ]

    desk = open_desk(sqlite_url)
    auto_vacuum, version = desk.read(changes)
    assert auto_vacuum == 2
    for _ in range(3):
        open_desk(sqlite_url)
    assert desk.read(changes) == [2, version]


@pytest.mark.parametrize(
    ("name", "reason"), [("folder", "Is a directory"), ("file/new.db", "Not a directory")]
)
async def test_a_path_that_cannot_be_a_file_is_refused(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    line = await refusal(f"sqlite:///{tmp_path}/{name}")
    assert line.startswith(f"sqlite:///{tmp_path}/{name}: it cannot be opened for writing ({reason}): ")


_OPEN_AS_NOBODY = """
import asyncio, os, sys
import alembic.command, alembic.config, sqlalchemy.dialects.sqlite.pysqlite
from resonant.errors import StoreUnavailable
from resonant.store import WorkerStore
from resonant.store.engine.sqlite import SQLite

async def main(url):
    try:
        store = await WorkerStore.open(url)
    except StoreUnavailable as error:
        return print(error)
    await store.close()
    print("opened")

if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def reachable_folder():
    """A folder that other users can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="resonant-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def opened_by_an_ordinary_user(path: Path) -> str:
    """Return the rows that an ordinary user can read; file modes do not restrict root."""
    command = [sys.executable, "-c", _OPEN_AS_NOBODY, f"sqlite:///{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


async def test_modes_that_keep_an_ordinary_user_out_are_named(reachable_folder):
    path = reachable_folder / "resonant.db"
    await (await WorkerStore.open(f"sqlite:///{path}")).close()
    for mode_of_file, mode_of_folder in ((0o444, 0o777), (0o666, 0o555)):
        path.chmod(mode_of_file)
        reachable_folder.chmod(mode_of_folder)
        assert opened_by_an_ordinary_user(path).startswith(
            f"sqlite:///{path}: it cannot be opened for writing (read-only for this user): "
        )
    assert "(Permission denied)" in opened_by_an_ordinary_user(reachable_folder / "new.db")
    assert "(Permission denied)" in opened_by_an_ordinary_user(reachable_folder / "new" / "new.db")
    reachable_folder.chmod(0o777)
    assert opened_by_an_ordinary_user(reachable_folder / "folder" / "resonant.db") == "opened"


_FILL_THE_DISK = """
import asyncio, os, sys
from resonant.errors import StoreUnavailable
from resonant.events import Event
from resonant.store import WorkerStore
from resonant.store.engine.sqlite import SQLite

def event(number):
    return Event(id=f"evt_{number}", type="t", source="/s", data="x" * 20_000)

async def main(folder):
    store = await WorkerStore.open(f"sqlite:///{folder}/resonant.db")
    stored = 0
    try:
        while True:
            await store.enqueue([event(stored)], "orders")
            stored += 1
    except StoreUnavailable as error:
        print(error)
    status = await store.status()
    assert status.balanced and status.accepted == stored > 10, (status, stored)
    os.remove(f"{folder}/ballast")
    leases = await store.claim("orders", owner="w", limit=5)
    assert len(leases) == 5, "the same store goes on when there is space again"
    await store.enqueue([event(stored)], "orders")
    await store.close()
    store = await WorkerStore.open(f"sqlite:///{folder}/resonant.db")
    status = await store.status()
    assert status.balanced and status.accepted == stored + 1, (status, stored)
    for number in range(stored + 1):
        assert (await store.detail(f"evt_{number}")).event.body == event(number).body
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


def test_on_a_full_disk_nothing_is_lost_and_it_goes_on_when_there_is_space(tmp_path):
    # A file system of its own, in a namespace of its own, which ends with the process.
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=4m none "$0" && head -c 1000000 /dev/zero > "$0/ballast" && exec "$@" "$0"'
    )
    command = [*in_namespace("mount"), "sh", "-c", script, str(disk), sys.executable, "-c", _FILL_THE_DISK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        f"sqlite:///{disk}/resonant.db: the disk is full: free some space and run the same command again"
    )


def test_opening_a_file_again_leaves_this_process_its_locks_on_it(open_desk, sqlite_url, tmp_path):
    """POSIX drops a process's locks on a file when any descriptor of it is closed: opening must not do that."""
    desk = open_desk(sqlite_url)
    desk.enqueue("evt_1")
    open_desk(sqlite_url)
    leave_wal = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode=DELETE')"
    command = [sys.executable, "-c", leave_wal, tmp_path / "resonant.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "database is locked" in done.stderr
    assert desk.enqueue("evt_2").accepted == 1


def test_the_file_is_left_whole_for_other_tools(open_desk, sqlite_url, tmp_path):
    open_desk(sqlite_url).enqueue("evt_1")
    connection = sqlite3.connect(tmp_path / "resonant.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
