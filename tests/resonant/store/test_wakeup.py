"""Commits that wake idle dispatchers, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from sqlalchemy import text

from resonant import enqueue
from resonant.dispatch.wakeup import wake_on_commits
from resonant.events import Event
from resonant.store import gate_operations, open_store, wakeup
from support.waiting import until


def event(number: int, type_: str = "order.paid") -> Event:
    return Event(type=type_, source="/shop", data=number, id=f"evt_{number}")


@contextlib.asynccontextmanager
async def watched(url):
    """Open a store and count its wake-ups, from one that has arrived on."""
    store = await open_store(url)
    woken = []

    watching = asyncio.create_task(wake_on_commits(store, lambda: woken.append(True)))
    other = await open_store(url)
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


async def quiet(woken):
    """Wait until no further wake-up has come for a moment."""
    number = -1
    while number != len(woken):
        number = len(woken)
        await asyncio.sleep(0.5)


async def test_storing_in_another_process_wakes(store_url):
    async with watched(store_url) as (other, woken):
        await other.enqueue([event(1)], "orders")
        await until(lambda: woken)


async def test_a_producers_own_transaction_wakes_when_it_commits(store_url):
    async with watched(store_url) as (other, woken):
        async with other.transaction() as transaction:
            await transaction.run_sync(enqueue, event(1), "orders")
            await quiet(woken)
            assert not woken
        await until(lambda: woken)


async def test_resuming_an_endpoint_wakes(store_url):
    async with watched(store_url) as (other, woken):
        await other.write(gate_operations.pause, "orders", reason="", who="me", now=time.time())
        await quiet(woken)
        woken.clear()
        await other.write(gate_operations.resume, "orders", now=time.time())
        await until(lambda: woken)


async def test_nothing_wakes_while_nothing_is_committed(store_url):
    async with watched(store_url) as (other, woken):
        await other.look()
        await other.rescue()
        await quiet(woken)
    assert not woken


async def test_a_producer_may_leave_drains_asleep_on_postgresql(postgresql_url):
    async with watched(postgresql_url) as (other, woken):
        await other.enqueue([event(1)], "orders", wake=False)
        await quiet(woken)
        assert not woken

        await other.enqueue([event(2)], "orders")
        await until(lambda: woken)


async def test_events_of_several_types_wake_too(store_url):
    async with watched(store_url) as (other, woken):
        await other.enqueue([event(1), event(2, "order.sent")], "orders")
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
