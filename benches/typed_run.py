"""Runs with events of the type ``bad``, which always fails, and of the type ``good``: see ``failing_types.py``."""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from benches.processes import kept, python
from benches.surroundings import DATA_BYTES, ENDPOINT, empty_home, postgresql
from benches.typed_receiver import BAD, Conduct, TypedReceiver, typed_receiver
from resonant.dispatch.limits import Lane
from resonant.events import Event
from resonant.store import WorkerStore, schema
from resonant.store.shared.gates import read_gates

GOOD = "good"
_TICK_SECONDS = 0.2
_LAST_SECONDS = 2.0
_START_SECONDS = 30.0
_PART_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Load:
    """Events, and a receiver.

    Attributes:
        conduct: how the receiver answers.
        rates: bad and good events per second.
        at_start: types, numbers and ages in seconds of the events that are stored at the start, in this order.
        seconds: the longest duration. Without rates, the run ends once all good events are delivered.
    """

    conduct: Conduct = field(default_factory=Conduct)
    rates: tuple[float, float] = (0.0, 0.0)
    at_start: tuple[tuple[str, int, float], ...] = ()
    seconds: float = 240.0


@dataclass(frozen=True, slots=True)
class Run:
    """One run. Times are in seconds from its start.

    Attributes:
        due: when each good event was stored, by its id.
        accepted: when each event was first accepted, by its id.
        requests: the times of all requests.
        bad: the number of requests with events of the type ``bad``.
        end: when the run ended.
        gate: the state of the endpoint's gate at the end.
    """

    due: dict[str, float]
    accepted: dict[str, float]
    requests: list[float]
    bad: int
    end: float
    gate: str

    def share(self, since: float, until: float = math.inf) -> float:
        """Return the share of the good events due between two times that were accepted."""
        until = min(until, self.end - _LAST_SECONDS)
        due = [event for event, at in self.due.items() if since <= at < until]
        return sum(event in self.accepted for event in due) / len(due) if due else math.nan

    def first(self) -> float:
        """Return when the first good event was accepted."""
        return min(self.accepted.values(), default=math.inf)

    def last(self) -> float:
        """Return when the last good event was accepted; infinity if not all of them were."""
        return max(self.accepted.values()) if len(self.accepted) == len(self.due) else math.inf

    def peak(self) -> int:
        """Return the requests of the busiest second, wherever it begins."""
        peak = oldest = 0
        for newest, at in enumerate(self.requests):
            while self.requests[oldest] <= at - 1:
                oldest += 1
            peak = max(peak, newest - oldest + 1)
        return peak

    def in_short(self) -> str:
        """Return the accepted and the due good events by the time they were due, and the requests."""
        times = [(since, since + _PART_SECONDS) for since in range(0, math.ceil(self.end), _PART_SECONDS)]
        due = [[event for event, at in self.due.items() if since <= at < until] for since, until in times]
        shares = [f"{sum(event in self.accepted for event in part)}/{len(part)}" for part in due if part]
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        return (
            f"{len(self.accepted)} of {len(self.due)} good events, by {_PART_SECONDS} s in which they were due: {' '.join(shares)}; "
            f"{len(self.requests)} requests, {self.bad} of them bad, at most {self.peak()} in a second; gate {self.gate}; load {load}"
        )


def measure(load: Load, database: str, drains: int, lane: Lane) -> Run:
    """Send a load with new drains from a new store to a new receiver.

    Args:
        load: the load.
        database: ``sqlite`` or ``postgresql``.
        drains: the number of drains.
        lane: their lane.
    """
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        log = settings.home.parent / "log"
        url = settings.store_url
        if database == "postgresql":
            url = os.environ["RESONANT_DATABASE_URL"] = stack.enter_context(postgresql()).url
        receiver = stack.enter_context(typed_receiver(load.conduct, log))
        runner = stack.enter_context(asyncio.Runner())
        store = runner.run(WorkerStore.open(url))
        stack.callback(lambda: runner.run(store.close()))
        for _ in range(drains):
            command = python("benches.pressure_worker", url, receiver.url, lane)
            stack.enter_context(kept(command, log=log))
        runner.run(_wait_for(store, drains))
        return runner.run(_produce(load, store, receiver, url))


async def _wait_for(store: WorkerStore, drains: int) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while await store.read(_drains) < drains:
        if time.monotonic() > give_up_at:
            raise RuntimeError("the drains do not start")
        await asyncio.sleep(0.1)


def _drains(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(schema.drains)).scalar_one()


async def _produce(load: Load, store: WorkerStore, receiver: TypedReceiver, url: str) -> Run:
    """Store the events, and return the run after its end."""
    due: dict[str, float] = {}
    began_at = time.monotonic()
    receiver.begin(began_at)
    for kind, count, age in load.at_start:
        if age:
            await _store_earlier(url, kind, count, age)
        else:
            due |= await _store(store, [kind] * count, 0.0)
    stored, now = [0, 0], 0.0
    while now < load.seconds and (any(load.rates) or receiver.count() < len(due)):
        await asyncio.sleep(_TICK_SECONDS)
        now = time.monotonic() - began_at
        kinds = []
        for index, (kind, rate) in enumerate(zip((BAD, GOOD), load.rates, strict=True)):
            new = int(rate * now) - stored[index]
            stored[index] += new
            kinds += [kind] * new
        due |= await _store(store, kinds, now)
    gates = await store.read(read_gates)
    requests = receiver.requests()
    accepted: dict[str, float] = {}
    for each in requests:
        if each.is_accepted:
            accepted.setdefault(each.event, each.at - began_at)
    gate = gates[ENDPOINT].state if ENDPOINT in gates else "normal"
    bad = sum(each.is_bad for each in requests)
    return Run(due, accepted, [each.at - began_at for each in requests], bad, now, gate)


async def _store(store: WorkerStore, kinds: Sequence[str], now: float) -> dict[str, float]:
    """Store events of these types; return the good ones and when they are due."""
    events = [Event(type=kind, source="bench", data={"note": "x" * DATA_BYTES}) for kind in kinds]
    if events:
        await store.enqueue(events, ENDPOINT)
    return {each.id: now for each in events if each.type == GOOD}


async def _store_earlier(url: str, kind: str, count: int, age: float) -> None:
    """Store events as if it were earlier by this many seconds."""
    store = await WorkerStore.open(url, clock=lambda: time.time() - age)
    try:
        await _store(store, [kind] * count, -age)
    finally:
        await store.close()
