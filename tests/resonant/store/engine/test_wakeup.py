"""Commits that wake idle dispatchers, on both databases."""

import asyncio
import contextlib
import errno
import os
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from resonant import enqueue
from resonant.events import Event
from resonant.gate.pausing import pause, resume
from resonant.store import open_store
from resonant.store.engine import wakeup
from support.desk import at_once
from support.dispatching import opened
from support.subscriptions import subscribe_in
from support.waiting import PATIENCE_SECONDS

# These tests do not poll, so they would miss a commit whose sync takes longer.
LONG_SYNC = 240 * wakeup._SYNC_SECONDS


@pytest.fixture(autouse=True)
def slow_disk(monkeypatch):
    monkeypatch.setattr(wakeup, "_SYNC_SECONDS", LONG_SYNC)
    monkeypatch.setattr(wakeup, "_ECHO_SECONDS", PATIENCE_SECONDS)


def event(number: int, type_: str = "order.paid") -> Event:
    return Event(type=type_, source="/shop", data=number, id=f"evt_{number}")


@contextlib.asynccontextmanager
async def watched(url):
    """Open two stores; yield one of them, and a function that waits for the next wake-up in the other."""
    async with (
        opened(url) as other,
        opened(url) as store,
        contextlib.aclosing(store.database.commits()) as commits,
    ):

        async def woken():
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await anext(commits)

        assert await woken() is None, "for commits before it watched"
        yield other, woken


async def test_a_producers_own_transaction_wakes_when_it_commits(store_url):
    async with watched(store_url) as (other, woken):
        waking = asyncio.create_task(woken())
        async with other.transaction() as transaction:
            await transaction.run_sync(enqueue, event(1), "orders")
            assert (await other.status()).accepted == 0
            assert not waking.done()
        await waking


@pytest.mark.parametrize("is_routed", [False, True], ids=["named", "routed"])
async def test_a_notification_names_the_endpoints_with_new_work(postgresql_url, is_routed):
    async with watched(postgresql_url) as (other, woken):
        async with other.transaction() as transaction:
            for name in ("orders", "billing"):
                if is_routed:
                    await transaction.run_sync(subscribe_in, name)
                else:
                    await transaction.run_sync(enqueue, event(1), name)
            if is_routed:
                await transaction.run_sync(enqueue, event(1))
        names = set()
        while names != {"orders", "billing"}:
            names |= await woken()


async def test_a_notification_without_a_name_counts_beside_others(postgresql_url):
    async with watched(postgresql_url) as (other, woken):
        async with other.transaction() as transaction:
            await transaction.run_sync(enqueue, event(1), "orders")
            await transaction.run_sync(wakeup.announce)
        while await woken() is not None:
            pass


async def test_resuming_an_endpoint_wakes(store_url):
    async with opened(store_url) as store:
        await pause(store, "orders", who="me")
    async with watched(store_url) as (other, woken):
        await resume(other, "orders", who="me")
        assert await woken() is None, "for any endpoint: the run must look at the gates"


async def look_and_rescue(store):
    await store.look()
    await store.rescue(at_once())


async def test_no_run_wakes_without_a_commit_on_sqlite(sqlite_url):
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    async with opened(sqlite_url) as store:
        with contextlib.closing(wakeup._opened(path)) as watcher:
            before = wakeup._version(watcher)
            await look_and_rescue(store)
            assert wakeup._version(watcher) == before


async def test_only_commits_of_work_that_shall_wake_do_so_on_postgresql(postgresql_url):
    async with watched(postgresql_url) as (other, woken):
        await look_and_rescue(other)
        await other.enqueue([event(1)], "asleep", wake=False)
        await other.enqueue([event(2)], "orders")
        assert await woken() == {"orders"}


@pytest.mark.parametrize(("system", "level"), [("linux", "WARNING"), ("darwin", "INFO")])
async def test_a_system_that_cannot_report_writes_only_polls(sqlite_url, monkeypatch, caplog, system, level):
    def fail(_path):
        raise OSError(errno.ENOSYS, "no inotify on this system")

    monkeypatch.setattr(wakeup, "_watched", fail)
    monkeypatch.setattr(wakeup.sys, "platform", system)
    caplog.set_level("INFO", "resonant")
    async with open_store(sqlite_url) as store:
        assert [each async for each in store.database.commits()] == []
    said = {each.getMessage(): each.levelname for each in caplog.records}
    assert said["new work is found only by polling: [Errno 38] no inotify on this system"] == level


async def test_commits_wake_after_the_last_reported_write(sqlite_url, monkeypatch):
    """A slow disk makes a commit visible late, and one report may stand for the writes of two commits."""
    reported, waits_for_report = asyncio.Event(), asyncio.Event()

    async def is_written(_watch, seconds):
        if seconds is not None:
            await asyncio.sleep(seconds)
            return False
        waits_for_report.set()
        await reported.wait()
        reported.clear()
        return True

    async with opened(sqlite_url) as store:
        monkeypatch.setattr(wakeup, "_is_written", is_written)
        monkeypatch.setattr(wakeup, "_SYNC_SECONDS", 0.0)
        async with contextlib.aclosing(store.database.commits()) as commits:
            await anext(commits)
            waiting = asyncio.ensure_future(anext(commits))
            await waits_for_report.wait()
            monkeypatch.setattr(wakeup, "_SYNC_SECONDS", LONG_SYNC)
            reported.set()
            for number in (1, 2):
                await store.enqueue([event(number)], "orders")
                await asyncio.wait_for(waiting, PATIENCE_SECONDS)
                waiting = asyncio.ensure_future(anext(commits))
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is a part of Linux")
def test_a_log_that_cannot_be_watched_leaves_nothing_open(tmp_path):
    def watches():
        return {each for each in Path("/proc/self/fd").iterdir() if "inotify" in os.path.realpath(each)}

    before = watches()
    with pytest.raises(FileNotFoundError):
        wakeup._watched(f"{tmp_path}/missing")
    assert watches() <= before


async def test_a_broken_connection_is_opened_again(postgresql_url, monkeypatch):
    monkeypatch.setattr(wakeup, "_CONNECT_AGAIN_SECONDS", 0.01)
    async with watched(postgresql_url) as (other, woken):
        listening = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        await other.write(lambda connection: connection.execute(text(listening)).all())
        assert await woken() is None, "a commit may have been missed meanwhile"
        for number in range(5):
            await other.enqueue([event(number)], f"endpoint{number}")
            if await woken() is not None:
                return
    pytest.fail("it does not listen again")
