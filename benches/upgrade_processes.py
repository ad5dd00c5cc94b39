"""The processes of an upgrade: ``python -m benches.upgrade_processes open URL``, or ``produce URL COUNT``.

Both print ``ready``, and begin at the first line of their standard input. A producer stores a known and a new event in each
transaction until its standard input ends, and prints the id of the new one and the seconds that the transaction took.
"""

import asyncio
import os
import random
import sys
import threading
import time

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from benches.old_store import DRIVERS, ENDPOINT, event_of, new_event
from resonant.store import WorkerStore, create_schema, enqueue

_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0


async def open_store(url: str) -> None:
    """Upgrade the store."""
    await (await WorkerStore.open(url)).close()


async def produce(url: str, count: str) -> None:
    """Store events as a program with an outbox does, with Python's own driver for SQLite."""
    is_wanted = threading.Thread(target=sys.stdin.read, daemon=True)
    is_wanted.start()
    parsed = make_url(url)
    options = {"timeout": _PATIENCE_SECONDS}
    engine = create_async_engine(parsed.set(drivername=DRIVERS[parsed.drivername]), connect_args=options)
    async with engine.begin() as connection:
        await connection.run_sync(create_schema)
    rng = random.Random(os.getpid())
    number = 0
    while is_wanted.is_alive():
        number += 1
        new = new_event(f"{os.getpid()}_{number}")
        given = [event_of(rng.randint(1, int(count))), new]
        began_at = time.monotonic()
        async with engine.begin() as connection:
            result = await connection.run_sync(enqueue, given, ENDPOINT)
        print(new.id, time.monotonic() - began_at, flush=True)
        if (result.accepted, result.known) != (1, 1):
            raise RuntimeError(f"{given[0].id} was not known: {result}")
        await asyncio.sleep(_PAUSE_SECONDS)
    await engine.dispose()


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(open_store(*sys.argv[2:]) if sys.argv[1] == "open" else produce(*sys.argv[2:]))
