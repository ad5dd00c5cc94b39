"""Many endpoints with `resonant up`: a few events to each, with and without failing endpoints, and 1,000 idle endpoints.

The healthy endpoints share a receiver. A time lasts from the first call that stores events until the receiver has the last one.
A third of the failing endpoints refuses connections, a third answers 503, and a third never answers. Their events are stored
first, and each round has new ones; the next one begins once nothing is unfinished. ``--only PART`` selects by a part
of the name.
"""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benches.comparing import Comparison, Stopwatch, is_chosen, say
from benches.outage_receiver import Behaviour, Kind, outage_receiver
from benches.processes import Tree, python, wait_until_quiet
from benches.receiver import Receiver, counting_receiver
from benches.surroundings import empty_home, events, give_up_all, running_up
from resonant.store import WorkerStore

EVENTS, ROUNDS = 15, 3
_PARTS = ("alone and beside", "idle")
_HEALTHY, _FAILING, _IDLE = 280, 120, 1_000
_KINDS: tuple[Kind, ...] = ("refuse", "503", "hang")
_SECONDS_AT_MOST, _RATIO_AT_MOST = 8.0, 1.1
_PERCENT_AT_MOST = 5.0
_LONGEST_SECONDS, _QUIET_SECONDS, _IDLE_SECONDS = 300.0, 30.0, 40.0
# After the deliveries, Prefect records their task runs, and the flows that are due every minute start.
_SETTLE_SECONDS = 45.0


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events to each endpoint.
        rounds: rounds of each part.
        only: parts of names; empty for all.
    """
    chosen = [name for name in _PARTS if is_chosen(name, only)]
    found = []
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        receiver = stack.enter_context(counting_receiver())
        failing = [stack.enter_context(outage_receiver(Behaviour(kind))) for kind in _KINDS]
        for each in failing:
            each.listen_after(0)
        up = Tree([stack.enter_context(running_up(settings))])
        runner = stack.enter_context(asyncio.Runner())
        store = runner.run(WorkerStore.open(settings.store_url))
        stack.callback(lambda: runner.run(store.close()))
        bench = _Endpoints(runner, store, receiver, up, settings.home)
        if "alone and beside" in chosen:
            found += bench.beside([each.url for each in failing], count, rounds)
        if "idle" in chosen:
            found += bench.idle(rounds)
    return found


class _Endpoints:
    def __init__(
        self, runner: asyncio.Runner, store: WorkerStore, receiver: Receiver, up: Tree, folder: Path
    ) -> None:
        self._runner = runner
        self._store = store
        self._receiver = receiver
        self._up = up
        self._file = folder / "endpoints.jsonl"

    def beside(self, failing: Sequence[str], count: int, rounds: int) -> list[Comparison]:
        """Measure the seconds for the events of the healthy endpoints, with and without failing ones."""
        healthy = {f"healthy-{number}": self._receiver.url for number in range(_HEALTHY)}
        self._save(healthy)
        alone, beside = [], []
        for turn in range(rounds):
            alone.append(self._seconds(healthy, count))
            bad = {f"bad-{turn}-{each}": failing[each % len(failing)] for each in range(_FAILING)}
            self._save(bad)
            self._enqueue(bad, count)
            beside.append(self._seconds(healthy, count))
            self._runner.run(give_up_all(self._store))
            say(f"  {_HEALTHY} endpoints: {alone[-1]:.1f} s alone, {beside[-1]:.1f} s beside {_FAILING}")
        what = f"{count} events to each of {_HEALTHY} endpoints"
        return [
            Comparison(what, "s", alone, beside, f"beside {_FAILING}", ours_at_most=_SECONDS_AT_MOST),
            Comparison(
                f"{what}, beside {_FAILING} that fail",
                "s",
                beside,
                alone,
                "alone",
                ratio_at_most=_RATIO_AT_MOST,
            ),
        ]

    def idle(self, rounds: int) -> list[Comparison]:
        """Measure the CPU while nothing is due, without endpoints and with many that have delivered an event."""
        without = [self._percent() for _ in range(rounds)]
        idle = {f"idle-{number}": self._receiver.url for number in range(_IDLE)}
        ten = {f"idle-{number}": f"{self._receiver.url}?old" for number in range(10)}
        self._save(idle | ten)
        self._save(idle, ", 10 of them changed,")
        self._save(idle, ", none of them changed,")
        self._timed("endpoints listed", "list")
        self._seconds(idle, 1)
        time.sleep(_SETTLE_SECONDS)
        with_them = [self._percent() for _ in range(rounds)]
        added = [each - base for each, base in zip(with_them, without, strict=True)]
        say(f"  idle: {without} % of a core; with {_IDLE:,} endpoints {with_them} %")
        return [
            Comparison(
                f"CPU of `up` that {_IDLE:,} idle endpoints add",
                "% of a core",
                added,
                without,
                "without them",
                ours_at_most=_PERCENT_AT_MOST,
            )
        ]

    def _save(self, endpoints: dict[str, str], which: str = "") -> None:
        declared = [{"name": name, "url": url, "allow_private": True} for name, url in endpoints.items()]
        self._file.write_text("\n".join(map(json.dumps, declared)))
        self._timed(f"{len(endpoints)} endpoints{which} imported", "import", str(self._file))

    def _timed(self, done: str, *command: str) -> None:
        with Stopwatch() as watch:
            subprocess.run(python("resonant", "endpoint", *command), capture_output=True, check=True)
        say(f"  {done} in {watch.seconds:.1f} s")

    def _enqueue(self, names: Iterable[str], count: int) -> None:
        for name in names:
            self._runner.run(self._store.enqueue(events(count), name))

    def _seconds(self, names: Sequence[str] | dict[str, str], count: int) -> float:
        self._receiver.expect(len(names) * count)
        began_at = time.monotonic()
        self._enqueue(names, count)
        return self._receiver.wait(_LONGEST_SECONDS).last_at - began_at

    def _percent(self) -> float:
        wait_until_quiet([self._up], _QUIET_SECONDS)
        before = self._up.cpu_seconds()
        time.sleep(_IDLE_SECONDS)
        return (self._up.cpu_seconds() - before) / _IDLE_SECONDS * 100
