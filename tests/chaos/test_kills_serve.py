"""``resonant serve`` is killed while producers send: each event that was answered 202 is stored once, and so is each event
whose answer was lost, after the producer has repeated it.

``RESONANT_CHAOS=long`` kills it 50 times on each database.
"""

import asyncio
import os
import random
import time

import pytest
from sqlalchemy import select

from resonant.store import Store, schema
from support import patient
from support.ports import free_port
from support.producers import Producers
from support.serving import add_endpoints, serving
from support.waiting import wait_until

KILLS = 50 if os.environ.get("RESONANT_CHAOS") == "long" else 2
# By then, each producer has begun a few requests.
LATEST_KILL_SECONDS = 0.3


def stored(store_url: str) -> tuple[list[str], bool]:
    """Return the event's id of every delivery, and whether the store's counts are balanced."""
    deliveries = select(schema.events.c.id).join(
        schema.deliveries, schema.deliveries.c.event_key == schema.events.c.key
    )

    async def read() -> tuple[list[str], bool]:
        store = await Store.open(store_url)
        try:
            ids = await store.read(lambda connection: list(connection.execute(deliveries).scalars()))
            return ids, (await store.status()).balanced
        finally:
            await store.close()

    return asyncio.run(read())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_killed_server_has_stored_each_event_that_it_answered(database, request, tmp_path):
    store_url = request.getfixturevalue(f"{database}_url")
    seed = f"{os.environ['RESONANT_CHAOS_SEED']} {database}"
    rng = random.Random(seed)
    add_endpoints(store_url, "shop")
    port = free_port()
    producers = Producers(lambda: patient.Client(base_url=f"http://127.0.0.1:{port}"))

    with producers.at_work(8):
        for _ in range(KILLS):
            before = len(producers.answered)
            with serving(store_url, tmp_path, "--no-auth", port=port) as server:
                wait_until(lambda: len(producers.answered) > before or producers.problems)  # noqa: B023 - waits here
                time.sleep(rng.uniform(0, LATEST_KILL_SECONDS))
                server.kill()
            answered = set(producers.answered)
            ids, balanced = stored(store_url)
            assert (answered - set(ids), len(ids) - len(set(ids)), balanced) == (set(), 0, True), seed
        with serving(store_url, tmp_path, "--no-auth", port=port):
            producers.finish()

    ids, balanced = stored(store_url)
    print(
        f"RESONANT_CHAOS_SEED={seed}: {KILLS} kills, {len(ids)} events, {producers.repeated} requests repeated, "
        f"{producers.duplicates} events stored before their answer was lost"
    )
    assert producers.problems == []
    assert balanced
    assert sorted(ids) == sorted(producers.answered)
