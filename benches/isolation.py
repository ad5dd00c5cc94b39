"""The rate of a healthy endpoint while others fail or are slow, compared with its rate alone, for each kind of failure.

One drain sends to all. Beside a single failing endpoint, the healthy endpoint's events are stored once the failures are known,
or, for one that has not answered yet, while its first sends wait for their deadline. Beside many, they are stored at the same
time as theirs. Each round has new failing endpoints. The receiver measures the rate in alternating rounds, with and without
the others. ``--only PART`` selects by a part of the name.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benches.comparing import Comparison, apart, is_chosen, say
from benches.outage_receiver import Behaviour, outage_receiver
from benches.processes import kept, python
from benches.receiver import counting_receiver
from benches.surroundings import (
    ENDPOINT,
    empty_home,
    events,
    give_up_all,
    kept_prefect_server,
    postgresql,
    save_endpoint,
    wait_for_runs,
)
from resonant.settings import load_settings
from resonant.store import WorkerStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benches.outage_receiver import Kind, OutageReceiver
    from benches.receiver import Receiver
    from resonant.dispatch.limits import Lane

EVENTS, ROUNDS = 2_000, 3
_DEAD_EVENTS = 8_000
# Factor of the number of events in each lane, so that a round takes seconds.
_TIMES: dict[Lane, int] = {"auto": 4, "bulk": 4, "task": 1}
_EVENTS_OF_MANY = 60
_LONGER_BESIDE_MANY = 5
# After this time, an endpoint without an answer has failed, and its sends have ended.
_DEADLINE_SECONDS = 16.0
_LONGEST_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _One:
    """A single failing endpoint.

    Attributes:
        kind: its behaviour.
        words: the same in words.
        seconds: how long it has failed before the healthy endpoint's events are stored.
    """

    kind: Kind
    words: str
    seconds: float = 5.0


_SINGLE = (
    _One("refuse", "refuses connections"),
    _One("reset", "resets connections"),
    _One("503", "answers 503 at once"),
    _One("hang", "has not answered yet"),
    _One("hang", "never answers", _DEADLINE_SECONDS + 5.0),
)


@dataclass(frozen=True, slots=True)
class _Many:
    """Many endpoints of the same kind, each with a few events."""

    number: int
    kind: Kind
    words: str


_MANY = (
    _Many(120, "503", "answer 503 at once"),
    _Many(120, "hang", "never answer"),
    _Many(20, "hang", "never answer"),
    _Many(120, "slow", "answer after a second"),
    _Many(10, "slow", "answer after a second"),
)
_DATABASES = ("SQLite", "PostgreSQL")


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events to the healthy endpoint.
        rounds: measurements with and without the failing endpoint.
        only: parts of names; empty for all.
    """
    found = []
    for lane, times in _TIMES.items():
        for one in _SINGLE:
            name = f"beside one that {one.words}, {lane} lane"
            if not is_chosen(name, only):
                continue
            beside, alone = apart(_measure, lane, one, count * times, rounds)
            say(
                f"  {name}: {[round(rate) for rate in beside]} against {[round(rate) for rate in alone]} alone"
            )
            found.append(Comparison(name, "events/s", beside, alone, "alone", ratio_at_least=0.95))
    for lane, database, many in itertools.product(_TIMES, _DATABASES, _MANY):
        name = f"beside {many.number} that {many.words}, {lane} lane, {database}"
        if not is_chosen(name, only):
            continue
        beside, alone = apart(_measure_many, lane, database, many, count * _LONGER_BESIDE_MANY, rounds)
        say(f"  {name}: {[round(rate) for rate in beside]} against {[round(rate) for rate in alone]} alone")
        found.append(Comparison(name, "events/s", beside, alone, "alone", ratio_at_least=0.9))
    return found


def _measure(lane: Lane, one: _One, count: int, rounds: int) -> tuple[list[float], list[float]]:
    with _draining(lane, one.kind, "SQLite") as (runner, store, healthy, dead):
        _rate(runner, store, healthy, count)  # warm-up
        beside, alone = [], []
        for number in range(rounds):
            alone.append(_rate(runner, store, healthy, count))
            name = f"dead-{number}"
            runner.run(save_endpoint(dead.url, name))
            runner.run(store.enqueue(events(_DEAD_EVENTS), name))
            time.sleep(one.seconds)
            beside.append(_rate(runner, store, healthy, count))
            runner.run(give_up_all(store))
        return beside, alone


def _measure_many(
    lane: Lane, database: str, many: _Many, count: int, rounds: int
) -> tuple[list[float], list[float]]:
    with _draining(lane, many.kind, database) as (runner, store, healthy, bad):
        _rate(runner, store, healthy, count // 10)  # warm-up
        beside, alone = [], []
        for number in range(rounds):
            alone.append(_rate(runner, store, healthy, count))
            # Named before the healthy endpoint in the alphabet, so that they are found first.
            names = [f"a-{number}-{each}" for each in range(many.number)]
            for name in names:
                runner.run(save_endpoint(bad.url, name))
            for name in names:
                runner.run(store.enqueue(events(_EVENTS_OF_MANY), name))
            beside.append(_rate(runner, store, healthy, count))
            runner.run(give_up_all(store))
        return beside, alone


@contextlib.contextmanager
def _draining(
    lane: Lane, kind: Kind, database: str
) -> Iterator[tuple[asyncio.Runner, WorkerStore, Receiver, OutageReceiver]]:
    """Run a drain, a healthy receiver and a bad one during the block."""
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        if database == "PostgreSQL":
            os.environ["RESONANT_DATABASE_URL"] = stack.enter_context(postgresql()).url
            settings = load_settings()
        healthy = stack.enter_context(counting_receiver())
        bad = stack.enter_context(outage_receiver(Behaviour(kind)))
        bad.listen_after(0)
        stack.enter_context(kept_prefect_server(settings))
        runner = stack.enter_context(asyncio.Runner())
        runner.run(save_endpoint(healthy.url))
        store = runner.run(WorkerStore.open(settings.store_url))
        stack.callback(lambda: runner.run(store.close()))
        variables = {"BENCH_LANE": lane, "BENCH_ENDPOINT": ""}
        command = python("benches.contenders.workers.drain")
        stack.enter_context(kept(command, log=settings.home.parent / "drain.log", variables=variables))
        runner.run(wait_for_runs(os.environ["PREFECT_API_URL"], 1))
        yield runner, store, healthy, bad


def _rate(runner: asyncio.Runner, store: WorkerStore, healthy: Receiver, count: int) -> float:
    """Return the events per second of the healthy endpoint."""
    healthy.expect(count)
    runner.run(store.enqueue(events(count), ENDPOINT))
    receipts = healthy.wait(_LONGEST_SECONDS)
    return count / (receipts.last_at - receipts.first_at)
