"""Contenders that store nothing: a loop, and Prefect tasks. Their workers read events from files."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import IO, cast

from benches.contenders.contender import IN_FLIGHT, Contender, Place, Running
from benches.lanes import task_runs_in_flight
from benches.processes import piped, python
from benches.surroundings import kept_prefect_server
from resonant.events import Event
from resonant.settings import Settings

_WORKERS = "benches.contenders.workers"
_TASK_RUNS_IN_FLIGHT = task_runs_in_flight(Settings.model_fields["concurrency"].default, IN_FLIGHT)


@contextlib.contextmanager
def _worker(
    place: Place, module: str, *arguments: str, in_flight: int = IN_FLIGHT, **services: int
) -> Iterator[Running]:
    """Run a worker that reads file names from its input, and prints a line when it has processed a file."""
    variables = {"BENCH_URL": place.url, "BENCH_IN_FLIGHT": str(in_flight)}
    worker = piped(python(f"{_WORKERS}.{module}", *arguments), log=place.log, variables=variables)
    files = (place.folder / f"{number}.json" for number in itertools.count())
    with worker as process:
        names, says = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)

        def enqueue(events: Sequence[Event]) -> None:
            file = next(files)
            file.write_text(json.dumps([(event.id, event.body.decode()) for event in events]))
            names.write(f"{file}\n".encode())

        def wait() -> tuple[float, float]:
            line = says.readline()
            if not line:
                raise RuntimeError("the worker has ended")
            began, ended = line.split()
            return float(began), float(ended)

        yield Running(enqueue, [process.pid], services, sends="empty" not in arguments, wait=wait)


@contextlib.contextmanager
def _task_worker(place: Place, kind: str, in_flight: int) -> Iterator[Running]:
    with (
        kept_prefect_server(place.settings) as server,
        _worker(place, "prefect_tasks", kind, in_flight=in_flight, Prefect=server.supervisor.pid) as running,
    ):
        yield running


RAW_LOOP = Contender("raw httpx loop", IN_FLIGHT, lambda place: _worker(place, "raw_loop"))
# The same number as in Resonant's task lane, where some claim, some wait to be recorded, and IN_FLIGHT send.
EMPTY_TASKS = Contender(
    "empty Prefect tasks",
    _TASK_RUNS_IN_FLIGHT,
    lambda place: _task_worker(place, "empty", _TASK_RUNS_IN_FLIGHT),
)
NAIVE_TASKS = Contender(
    "Prefect tasks with retries", IN_FLIGHT, lambda place: _task_worker(place, "naive", IN_FLIGHT)
)
