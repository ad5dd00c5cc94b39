"""Runs report the rotation of an endpoint's signing secret that they use; ``rotate-secret`` waits for all of them."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.dispatch import secret_rotation
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.secret_rotation import until_every_run_signs
from resonant.errors import EndpointError
from resonant.events import Event
from resonant.sinks.base import CallableSink
from resonant.store import WorkerStore, schema
from resonant.store.shared import signers
from support.waiting import until

NEW = 2_000.5


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(secret_rotation, "POLL_SECONDS", 0.005)


def destination(name: str, send, rotation) -> Destination:
    async def close():
        return None

    return Destination(name, CallableSink(send), describe=str, close=close, rotation=rotation)


async def reported(store):
    query = schema.signers.select()
    return await store.read(
        lambda connection: [(row.owner, row.endpoint, row.rotation) for row in connection.execute(query)]
    )


async def test_a_run_reports_what_it_uses_from_before_it_reads_the_endpoint_until_it_ends(sqlite_url):
    seen = {}

    store = await WorkerStore.open(sqlite_url)
    await store.enqueue([Event(type="t", source="/s", data=1)], "billing")

    async def open_destination(name):
        seen["while it is read"] = await reported(store)
        return destination(name, send, lambda: NEW)

    async def send(event):
        await until(is_reported)
        seen["while it sends"] = await reported(store)

    async def is_reported():
        return ("run-1", "billing", NEW) in await reported(store)

    attempt_runner = AttemptRunner(clock=time.time, rng=random.Random(1))
    async with Dispatcher(store, attempt_runner, open_destination, owner="run-1") as dispatcher:

        async def emit_one(lease):
            await dispatcher.attempt(lease.key)

        summary = await dispatcher.run(emit_one)
    seen["at the end"] = await reported(store)
    await store.close()
    assert summary.delivered == 1
    assert seen == {
        "while it is read": [("run-1", "billing", None)],
        "while it sends": [("run-1", "billing", NEW)],
        "at the end": [],
    }


async def test_an_endpoint_that_cannot_be_announced_is_not_opened(sqlite_url, monkeypatch):
    opened = []

    store = await WorkerStore.open(sqlite_url)

    async def open_destination(name):
        opened.append(name)
        raise EndpointError("no")

    def broken(*args, **kwargs):
        raise OSError("disk")

    monkeypatch.setattr(signers, "report", broken)
    attempt_runner = AttemptRunner(clock=time.time, rng=random.Random(1))
    async with Dispatcher(store, attempt_runner, open_destination, owner="run-1") as dispatcher:
        with pytest.raises(OSError, match="disk"):
            await dispatcher.unavailable_endpoints(["billing"])
    await store.close()
    assert opened == []


async def test_a_run_that_cannot_open_an_endpoint_delays_no_rotation_of_its_secret(sqlite_url):
    store = await WorkerStore.open(sqlite_url)
    seen = []

    async def open_destination(name):
        seen.extend(await reported(store))
        raise EndpointError("its certificates are on another machine")

    attempt_runner = AttemptRunner(clock=time.time, rng=random.Random(1))
    async with Dispatcher(store, attempt_runner, open_destination, owner="run-1") as dispatcher:
        await dispatcher.unavailable_endpoints(["billing"])
        seen.append(await store.read(signers.behind, "billing", NEW, now=time.time()))
    await store.close()
    assert seen == [("run-1", "billing", None), 0]


async def test_the_wait_ends_when_the_last_run_uses_the_rotation_and_counts_them_meanwhile(sqlite_url):
    store = await WorkerStore.open(sqlite_url)
    for owner in ("run-1", "run-2"):
        await store.write(signers.report, owner, {"billing": None}, now=time.time())
    waited = []

    async def follow(behind):
        owner = {2: "run-1", 1: "run-2"}[behind]
        await store.write(signers.report, owner, {"billing": NEW}, now=time.time())

    tasks = []

    def on_waiting(behind):
        waited.append(behind)
        tasks.append(asyncio.ensure_future(follow(behind)))

    behind = await until_every_run_signs(store, "billing", NEW, patience=30, on_waiting=on_waiting)
    await store.close()
    assert (behind, waited) == (0, [2, 1])


async def test_the_wait_is_bounded_and_says_how_many_runs_are_behind(sqlite_url):
    store = await WorkerStore.open(sqlite_url)
    await store.write(signers.report, "stuck", {"billing": 1.0}, now=time.time())
    behind = await until_every_run_signs(store, "billing", NEW, patience=0.05, on_waiting=lambda _: None)
    await store.close()
    assert behind == 1
