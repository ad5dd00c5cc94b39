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
from resonant.dispatch.run.background import wake_on_commits
from resonant.events import Event
from resonant.gate.pausing import pause, resume
from resonant.store import WorkerStore, open_store
from resonant.store.engine import wakeup
from support.desk import at_once
from support.subscriptions import subscribe_in
from support.waiting import quiet, until


@pytest.fixture(autouse=True)
def slow_disk(monkeypatch):
    """There is no poll here that finds a commit whose sync takes longer."""
    monkeypatch.setattr(wakeup, "_SYNC_SECONDS", 60.0)


def event(number: int, type_: str = "order.paid") -> Event:
    return Event(type=type_, source="/shop", data=number, id=f"evt_{number}")


@contextlib.asynccontextmanager
async def watched(url):
    """Open a store and collect its wake-ups, from one that has arrived on."""
    store = await WorkerStore.open(url)
    woken = []

    watching = asyncio.create_task(wake_on_commits(store, woken.append))
    other = await WorkerStore.open(url)
    try:
        number = -1
        while not woken:
            await other.enqueue([event(number)], f"first{-number}")
            number -= 1
            await asyncio.sleep(0.05)
        await quiet(woken)
        woken.clear()
        yield other, woken
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await store.close()
        await other.close()


async def test_storing_in_another_process_wakes(store_url):
    async with watched(store_url) as (other, woken):
        await other.enqueue([event(1), event(2, "order.sent")], "orders")
        await until(lambda: woken)


async def test_a_producers_own_transaction_wakes_when_it_commits(store_url):
    async with watched(store_url) as (other, woken):
        async with other.transaction() as transaction:
            await transaction.run_sync(enqueue, event(1), "orders")
            await quiet(woken)
            assert not woken
        await until(lambda: woken)


async def test_a_notification_names_the_endpoints_with_new_work(postgresql_url):
    async with watched(postgresql_url) as (other, woken):
        async with other.transaction() as transaction:
            await transaction.run_sync(enqueue, event(1), "orders")
            await transaction.run_sync(enqueue, event(1), "billing")
        await until(lambda: frozenset().union(*woken) == {"orders", "billing"})


async def test_an_event_that_is_routed_wakes_the_drains_of_all_its_endpoints(postgresql_url):
    async with watched(postgresql_url) as (other, woken):
        for name in ("orders", "billing"):
            await other.write(subscribe_in, name)
        await other.enqueue(event(1))
        await until(lambda: frozenset().union(*woken) == {"orders", "billing"})


async def test_a_notification_without_a_name_counts_beside_others(postgresql_url):
    async with watched(postgresql_url) as (other, woken):
        async with other.transaction() as transaction:
            await transaction.run_sync(wakeup.announce)
            await transaction.run_sync(enqueue, event(1), "orders")
        await until(lambda: None in woken)


async def test_resuming_an_endpoint_wakes(store_url):
    async with watched(store_url) as (other, woken):
        await pause(other, "orders", who="me")
        await quiet(woken)
        woken.clear()
        await resume(other, "orders", who="me")
        await until(lambda: None in woken)  # for any endpoint: the run must look at the gates


async def test_no_run_wakes_without_a_commit(store_url):
    async with watched(store_url) as (other, woken):
        await other.look()
        await other.rescue(at_once())
        await quiet(woken)
    assert not woken


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

    store = await WorkerStore.open(sqlite_url)
    monkeypatch.setattr(wakeup, "_is_written", is_written)
    monkeypatch.setattr(wakeup, "_SYNC_SECONDS", 0.0)
    async with contextlib.aclosing(store.database.commits()) as commits:
        await anext(commits)
        waiting = asyncio.ensure_future(anext(commits))
        await waits_for_report.wait()
        monkeypatch.setattr(wakeup, "_SYNC_SECONDS", 60.0)
        reported.set()
        for number in (1, 2):
            await store.enqueue([event(number)], "orders")
            await asyncio.wait_for(waiting, 30)
            waiting = asyncio.ensure_future(anext(commits))
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await store.close()


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is a part of Linux")
def test_a_log_that_cannot_be_watched_leaves_nothing_open(tmp_path):
    def watches():
        return {each for each in Path("/proc/self/fd").iterdir() if "inotify" in os.path.realpath(each)}

    before = watches()
    with pytest.raises(FileNotFoundError):
        wakeup._watched(f"{tmp_path}/missing")
    assert watches() <= before


async def test_a_producer_may_leave_drains_asleep_on_postgresql(postgresql_url):
    async with watched(postgresql_url) as (other, woken):
        await other.enqueue([event(1)], "orders", wake=False)
        await quiet(woken)
        assert not woken

        await other.enqueue([event(2)], "orders")
        await until(lambda: woken)


async def test_a_broken_connection_is_opened_again(postgresql_url, monkeypatch):
    monkeypatch.setattr(wakeup, "_CONNECT_AGAIN_SECONDS", 0.01)
    async with watched(postgresql_url) as (other, woken):
        listening = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        await other.write(lambda connection: connection.execute(text(listening)).all())
        await until(lambda: woken)  # a commit may have been missed meanwhile
        for number in range(100):
            woken.clear()
            await other.enqueue([event(number)], f"endpoint{number}")
            with contextlib.suppress(TimeoutError):
                await until(lambda: woken, 1)
                return
    pytest.fail("it does not listen again")
