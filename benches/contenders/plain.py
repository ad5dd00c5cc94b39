"""What keeps nothing: a loop, and Prefect tasks. Their events are written to a file, which the worker is then told of."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import IO, TYPE_CHECKING, cast

from benches.contenders.contender import IN_FLIGHT, Contender, Place, Running
from benches.processes import python, told
from benches.surroundings import kept_prefect_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resonant.events import Event

_WORKERS = "benches.contenders.workers"


@contextlib.contextmanager
def _told(place: Place, module: str, *arguments: str, **services: int) -> Iterator[Running]:
    """Run a worker that reads files' names from its input, and says by a line when it has done what is in one."""
    variables = {"BENCH_URL": place.url, "BENCH_IN_FLIGHT": str(IN_FLIGHT)}
    worker = told(python(f"{_WORKERS}.{module}", *arguments), log=place.log, variables=variables)
    files = (place.folder / f"{number}.json" for number in itertools.count())
    with worker as process:
        names, says = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)

        def enqueue(events: Sequence[Event]) -> None:
            file = next(files)
            file.write_text(json.dumps([(event.id, event.body.decode()) for event in events]))
            names.write(f"{file}\n".encode())

        def wait() -> tuple[float, float]:
            began, ended = says.readline().split()
            return float(began), float(ended)

        sends = "empty" not in arguments
        yield Running(enqueue, [process.pid], services, None if sends else wait)


@contextlib.contextmanager
def _told_tasks(place: Place, kind: str) -> Iterator[Running]:
    with (
        kept_prefect_server(place.settings) as server,
        _told(place, "prefect_tasks", kind, Prefect=server.keeper.pid) as running,
    ):
        yield running


RAW_LOOP = Contender("raw httpx loop", IN_FLIGHT, lambda place: _told(place, "raw_loop"))
EMPTY_TASKS = Contender("empty Prefect tasks", IN_FLIGHT, lambda place: _told_tasks(place, "empty"))
NAIVE_TASKS = Contender("Prefect tasks with retries", IN_FLIGHT, lambda place: _told_tasks(place, "naive"))
