"""The baseline: a loop that stores nothing, and reads events from files."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import IO, cast

from benches.contenders.contender import IN_FLIGHT, Contender, Place, Running
from benches.processes import piped, python
from resonant.events import Event


@contextlib.contextmanager
def _worker(place: Place) -> Iterator[Running]:
    """Run a worker that reads file names from its input, and prints a line when it has processed a file."""
    variables = {"BENCH_URL": place.url, "BENCH_IN_FLIGHT": str(IN_FLIGHT)}
    worker = piped(python("benches.contenders.workers.raw_loop"), log=place.log, variables=variables)
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

        yield Running(enqueue, [process.pid], wait=wait)


RAW_LOOP = Contender("raw httpx loop", IN_FLIGHT, _worker)
