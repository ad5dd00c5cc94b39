"""The file of a store: its mode, its folder, what is synced to the disk."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from resonant.delivery.retry import GiveUp
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.errors import StoreUnavailable
from resonant.store import open_store
from resonant.store.engine import sqlite
from resonant.store.engine.sqlite import SQLite
from support.sqlite import listening, locked, on_sqlite
from support.waiting import until

FULL = 2  # SQLite's number for synchronous=FULL


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def refusal(url: str) -> str:
    with pytest.raises(StoreUnavailable) as failure:
        async with open_store(url):
            pass
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.fixture
def permissive_umask():
    before = os.umask(0)
    yield
    os.umask(before)


async def test_a_connection_to_a_new_file_waits_while_another_one_writes(sqlite_url, monkeypatch):
    """SQLite itself answers "database is locked" at once while the journal mode changes."""
    tries, is_executed = [], sqlite._is_executed

    def note(driver, statement):
        tries.append(statement)
        return is_executed(driver, statement)

    monkeypatch.setattr(sqlite, "_is_executed", note)
    url = make_url(sqlite_url)
    database = SQLite(url)
    with locked(sqlite.path_of(url)) as other:
        reading = asyncio.create_task(
            database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        )
        await until(lambda: reading.done() or len(tries) > len(sqlite._PRAGMAS))
        other.rollback()
        assert await reading == 1
    await database.close()


@pytest.mark.usefixtures("permissive_umask")
def test_new_files_and_folders_are_private_to_their_owner_and_chosen_modes_are_left_alone(
    tmp_path, open_desk
):
    folder = tmp_path / "new" / "folder"
    url = f"sqlite:///{folder}/resonant.db"
    open_desk(url).enqueue("evt_1")
    assert mode(folder) == mode(folder.parent) == 0o700
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["resonant.db", "resonant.db-shm", "resonant.db-wal"]
    assert {mode(file) for file in files} == {0o600}

    folder.chmod(0o755)
    files[0].chmod(0o644)
    open_desk(url).enqueue("evt_2")
    assert (mode(folder), mode(files[0])) == (0o755, 0o644)


@pytest.mark.parametrize(
    "name", ["plain.db", "with space.db", "per%cent.db", "ques?tion.db", "ümlaut.db", "a:b.db"]
)
def test_a_path_may_be_in_the_home_and_have_any_character_that_is_quoted(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    database = SQLite(make_url(f"sqlite:///~/{quote(name)}"))
    assert str(database) == f"sqlite:///{tmp_path / name}"
    assert (tmp_path / name).is_file()


@pytest.fixture
def syncs():
    """Whether each write transaction synced its commit to the disk."""
    found = []

    def look(connection):
        if connection.get_execution_options().get("write"):
            found.append(connection.exec_driver_sql("PRAGMA synchronous").scalar() == FULL)

    with listening("commit", look):
        yield found


@on_sqlite
def test_only_changes_of_leases_are_not_synced(desk, syncs):
    syncs.clear()
    desk.enqueue("evt_1", "evt_2", "evt_3")
    assert syncs == [True]

    syncs.clear()
    first, second, third = desk.claim()
    desk.begin(first, second)
    desk.run(desk.store.renew("worker"))
    desk.run(desk.store.release([second]))
    assert syncs == [False, False, False, False]

    syncs.clear()
    desk.record(desk.failed(first, GiveUp("permanent")))
    desk.replay()
    desk.rescue()
    assert syncs == [True, True, True]

    async def begin_and_record():
        writer = BatchWriter(desk.store)
        await writer.begin([third])
        await writer.record(desk.delivered(third))

    syncs.clear()
    desk.run(begin_and_record())
    assert syncs == [False, True], "a batch is synced if it has an outcome"


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
        pragmas = ("auto_vacuum", "data_version")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]

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
    url = f"sqlite:///{tmp_path}/{name}"
    assert (await refusal(url)).startswith(f"{url}: it cannot be opened for writing ({reason}): ")


async def test_a_file_of_0_bytes_is_refused_instead_of_becoming_an_empty_store(tmp_path, sqlite_url):
    path = tmp_path / "resonant.db"
    path.touch()
    assert await refusal(sqlite_url) == (
        f"{sqlite_url}: the file has 0 bytes, as after a failed copy: restore it from a backup, or remove it to begin "
        "with an empty store"
    )
    assert path.stat().st_size == 0
    path.unlink()
    async with open_store(sqlite_url):
        assert path.stat().st_size > 0
    assert [each.name for each in tmp_path.iterdir()] == ["resonant.db"]


def test_processes_that_create_a_file_at_the_same_time_never_find_it_empty(sqlite_url):
    barrier = Barrier(8)

    def create(_number):
        barrier.wait()
        SQLite(make_url(sqlite_url))

    for _ in range(20):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(create, range(8)))
        sqlite.path_of(make_url(sqlite_url)).unlink()


@pytest.fixture
def reachable_folder():
    """A folder that other users can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="resonant-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def as_an_ordinary_user():
    """Run the block as nobody, if this process is root, whom file modes do not restrict."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(65534, 65534, 0)
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


async def test_modes_that_keep_an_ordinary_user_out_are_named(reachable_folder):
    path = reachable_folder / "resonant.db"
    async with open_store(f"sqlite:///{path}"):
        pass
    for mode_of_file, mode_of_folder in ((0o444, 0o777), (0o666, 0o555)):
        path.chmod(mode_of_file)
        reachable_folder.chmod(mode_of_folder)
        with as_an_ordinary_user():
            line = await refusal(f"sqlite:///{path}")
        assert "it cannot be opened for writing (read-only for this user): " in line
    for new in ("new.db", "new/new.db"):
        with as_an_ordinary_user():
            assert "(Permission denied)" in await refusal(f"sqlite:///{reachable_folder}/{new}")
    reachable_folder.chmod(0o777)
    with as_an_ordinary_user():
        async with open_store(f"sqlite:///{reachable_folder}/folder/resonant.db") as store:
            assert (await store.status()).balanced


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
