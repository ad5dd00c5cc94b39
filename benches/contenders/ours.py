"""Resonant: events in its store, and one or two drains, as the drain deployment runs them."""

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from benches.contenders.contender import IN_FLIGHT, Contender, Place, Running
from benches.processes import kept, python
from benches.surroundings import (
    ENDPOINT,
    kept_prefect_server,
    postgresql,
    postgresql_is_free,
    save_endpoint,
    sqlite_is_free,
)
from resonant.dispatch.limits import Lane
from resonant.events import Event
from resonant.store import WorkerStore

Database = Literal["SQLite", "PostgreSQL"]
_POLICY = {"max_attempts": 4, "base": 0.1, "factor": 1, "jitter": "none"}


def ours(lane: Lane, database: Database, *, processes: int = 1) -> Contender:
    """Return one of Resonant's lanes on one of its stores."""
    name = f"Resonant, {lane} lane, {database}" + (f", {processes} drains" if processes > 1 else "")
    return Contender(
        name, IN_FLIGHT, functools.partial(_start, lane=lane, database=database, processes=processes)
    )


@contextlib.contextmanager
def _start(place: Place, *, lane: Lane, database: Database, processes: int) -> Iterator[Running]:
    os.environ |= {
        "RESONANT_POLICIES": json.dumps({"bench": _POLICY}),
        "RESONANT_DEFAULT_POLICY": "bench",
        "RESONANT_ENDPOINT_CONCURRENCY": str(IN_FLIGHT // processes),
    }
    with contextlib.ExitStack() as stack:
        services = {}
        url = place.settings.store_url
        path = Path(url.removeprefix("sqlite:///"))
        if database == "PostgreSQL":
            server = stack.enter_context(postgresql())
            url, services["PostgreSQL"] = server.url, server.pid
            os.environ["RESONANT_DATABASE_URL"] = url
        prefect = stack.enter_context(kept_prefect_server(place.settings))
        services["Prefect"] = prefect.supervisor.pid
        runner = stack.enter_context(asyncio.Runner())
        runner.run(save_endpoint(place.url))
        store = runner.run(WorkerStore.open(url))
        stack.callback(lambda: runner.run(store.close()))
        variables = {"BENCH_LANE": lane}
        drain = functools.partial(
            kept, python("benches.contenders.workers.drain"), log=place.log, variables=variables
        )
        workers = [stack.enter_context(drain()) for _ in range(processes)]

        def enqueue(events: Sequence[Event]) -> None:
            runner.run(store.enqueue(events, ENDPOINT))

        def is_free() -> bool:
            return postgresql_is_free(url) if database == "PostgreSQL" else sqlite_is_free(path)

        yield Running(enqueue, workers, services, is_free=is_free)
