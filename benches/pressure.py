"""Deliveries while PostgreSQL is under pressure, by phase and lane: their rate during and after it, as a ratio to the rate before.

Two drains without Prefect send events that are stored at a steady rate. The phases are those of
hardbyte/postgresql-job-queue-benchmarking. ``--events N`` stores N events a minute: more than the drains can send measures their
highest rate instead of whether they keep up. ``--only PART`` selects by a part of "PHASE, LANE lane"; the phase of ten minutes
runs only if it is named.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from benches.comparing import Comparison, apart, say
from benches.processes import kept, python
from benches.receiver import counting_receiver
from benches.surroundings import ENDPOINT, empty_home, events, postgresql
from resonant.dispatch.limiting.ahead import PrefetchWindow
from resonant.dispatch.limits import LANES, Lane, Limits
from resonant.errors import StoreUnavailable
from resonant.store import WorkerStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from benches.receiver import Receiver
    from benches.surroundings import Postgresql

# The rate at which the harness measures its phases of chaos: 600 a second.
EVENTS, ROUNDS = 36_000, 1
_DRAINS = 2
_SECONDS, _WARM_UP_SECONDS = 10.0, 3.0
_BATCH_SECONDS, _BATCH = 0.2, 120
_LONGEST_SECONDS = 150.0
_CUTS_PER_SECOND, _KILL_SECONDS, _STOPPED_SECONDS = 5, 2.5, 3.0
_IDLE_CONNECTIONS, _READERS = 300, 4

_CUT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"""
_COUNTERS = """SELECT pg_current_wal_lsn() - '0/0' AS wal,
    (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits,
    sum(n_dead_tup) AS dead,
    sum(n_tup_ins + n_tup_upd) FILTER (WHERE relname = 'resonant_deliveries') AS versions,
    sum(n_tup_hot_upd) FILTER (WHERE relname = 'resonant_deliveries') AS hot
FROM pg_stat_user_tables WHERE relname LIKE 'resonant%'"""


@dataclass
class _Scene:
    """The processes of a lane.

    Attributes:
        drains: their process ids, the last started first.
        kills: the number of killed drains.
    """

    lane: Lane
    server: Postgresql
    receiver: Receiver
    log: Path
    stack: contextlib.ExitStack
    drains: list[int] = field(default_factory=list)
    kills: int = 0

    def start_drain(self) -> None:
        command = python("benches.pressure_worker", self.server.url, self.receiver.url, self.lane)
        self.drains.insert(0, self.stack.enter_context(kept(command, log=self.log)))

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.server.url)
        try:
            yield connection
        finally:
            await connection.close()

    @property
    def most_in_flight(self) -> int:
        """The most deliveries that a killed drain has sent without a recorded outcome."""
        ahead = 1 if self.lane == "task" else PrefetchWindow.MOST_BEGUN + 1
        return Limits().endpoint_concurrency * ahead


@contextlib.asynccontextmanager
async def _repeated(action: Callable[[], Awaitable[None]], seconds: float) -> AsyncIterator[None]:
    """Do something at this interval during the block."""
    is_over = asyncio.Event()

    async def repeat() -> None:
        while not is_over.is_set():
            await action()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        is_over.set()
        await task


@contextlib.asynccontextmanager
async def _cut_sessions(scene: _Scene) -> AsyncIterator[None]:
    async with scene.connected() as connection:

        async def cut() -> None:
            await connection.execute(_CUT)

        async with _repeated(cut, 1 / _CUTS_PER_SECOND):
            yield


@contextlib.asynccontextmanager
async def _restart(scene: _Scene) -> AsyncIterator[None]:
    async def restart() -> None:
        await asyncio.to_thread(scene.server.stop)
        await asyncio.sleep(_STOPPED_SECONDS)
        await asyncio.to_thread(scene.server.start)

    task = asyncio.create_task(restart())
    try:
        yield
    finally:
        await task


@contextlib.asynccontextmanager
async def _open_idle_sessions(scene: _Scene) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(_IDLE_CONNECTIONS):
            await stack.enter_async_context(scene.connected())
        yield


@contextlib.asynccontextmanager
async def _kill_a_drain(scene: _Scene) -> AsyncIterator[None]:
    async def kill() -> None:
        os.kill(scene.drains.pop(0), signal.SIGKILL)
        scene.kills += 1
        await asyncio.to_thread(scene.start_drain)

    async with _repeated(kill, _KILL_SECONDS):
        yield


@contextlib.asynccontextmanager
async def _pin_xmin(scene: _Scene) -> AsyncIterator[None]:
    async with scene.connected() as connection, connection.transaction(isolation="repeatable_read"):
        await connection.execute("SELECT txid_current(), count(*) FROM resonant_deliveries")
        yield


@contextlib.asynccontextmanager
async def _read_heavily(scene: _Scene) -> AsyncIterator[None]:
    async def read() -> None:
        async with scene.connected() as connection, connection.transaction(isolation="repeatable_read"):
            # One process for each reader, as for each process of the control.
            await connection.execute("SET max_parallel_workers_per_gather = 0")
            while True:
                for table in ("resonant_deliveries", "resonant_events"):
                    await connection.execute(f"SELECT count(*), max(md5(t::text)) FROM {table} t")

    tasks = [asyncio.create_task(read()) for _ in range(_READERS)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def _burn_cpu(scene: _Scene) -> AsyncIterator[None]:
    """Burn as much CPU as the readers, in processes of the server's session, since Linux shares the CPU between sessions."""
    flag = scene.log.with_name("burning")
    flag.touch()
    burning = f"COPY (SELECT) TO PROGRAM 'cat >/dev/null; while [ -e {flag} ]; do :; done'"
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(scene.connected()) for _ in range(_READERS)]
        tasks = [asyncio.create_task(connection.execute(burning)) for connection in connections]
        try:
            yield
        finally:
            flag.unlink()
            await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def _nothing(_scene: _Scene) -> AsyncIterator[None]:
    yield


@dataclass(frozen=True, slots=True)
class _Phase:
    """A kind of pressure.

    Attributes:
        strike: exerts it during a block.
        seconds: its duration.
        least: the target of its rate, as a ratio to the rate before it.
        load: the factor of the events stored during it.
        control: what the rate is compared with instead; None for the time before.
    """

    words: str
    strike: Callable[[_Scene], AbstractAsyncContextManager[None]]
    seconds: float = _SECONDS
    least: float = 0.9
    load: float = 1.0
    control: Callable[[_Scene], AbstractAsyncContextManager[None]] | None = None


_TEN_MINUTES = "xmin pinned for ten minutes"
_PHASES = (
    _Phase("five sessions a second terminated", _cut_sessions),
    _Phase(f"restart, stopped for {_STOPPED_SECONDS:g} s", _restart),
    _Phase(f"{_IDLE_CONNECTIONS} idle connections", _open_idle_sessions),
    _Phase(f"SIGKILL of a drain every {_KILL_SECONDS:g} s", _kill_a_drain),
    _Phase("xmin pinned for 30 s", _pin_xmin, 30.0, 0.7),
    _Phase("four heavy readers", _read_heavily, control=_burn_cpu),
    _Phase("1.5 times the load", _nothing, load=1.5),
    _Phase(_TEN_MINUTES, _pin_xmin, 600.0, 0.7),
)


@dataclass
class _Producer:
    """Stores events at a steady rate until it is over.

    Attributes:
        rate: events per second.
        stored: the number of stored events.
        commits: the number of its transactions.
    """

    store: WorkerStore
    rate: float
    stored: int = 0
    commits: int = 0
    is_over: bool = False

    async def run(self) -> None:
        due, at = 0.0, time.monotonic()
        while not self.is_over:
            await asyncio.sleep(_BATCH_SECONDS)
            now = time.monotonic()
            due += (now - at) * self.rate
            at = now
            batch = events(int(due))
            due -= len(batch)
            while True:
                try:
                    await self.store.enqueue(batch, ENDPOINT)
                    break
                except StoreUnavailable:
                    await asyncio.sleep(_BATCH_SECONDS)
            self.stored += len(batch)
            self.commits += 1


@dataclass(frozen=True, slots=True)
class _Window:
    """What happened in a part of a phase.

    Attributes:
        rate: deliveries per second.
        wal_bytes, commits, versions, hot, dead: per delivery; commits without the producer's; versions of rows of deliveries, how many
            of them are in the same page as the previous version (HOT), and dead rows of all tables at its end.
    """

    rate: float
    wal_bytes: float
    commits: float
    versions: float
    hot: float
    dead: float


class _Measuring:
    """Measures windows of a phase.

    Args:
        scene: the processes of the lane.
        producer: stores events at the same time.
    """

    def __init__(self, scene: _Scene, producer: _Producer) -> None:
        self._scene = scene
        self._producer = producer

    async def window(self, seconds: float) -> _Window:
        before = await self.look()
        await asyncio.sleep(seconds)
        after = await self.look()
        of = {name: after[name] - before[name] for name in before}
        delivered = max(1.0, of["delivered"])
        return _Window(
            rate=of["delivered"] / of["at"],
            wal_bytes=of["wal"] / delivered,
            commits=(of["commits"] - of["producer"]) / delivered,
            versions=of["versions"] / delivered,
            hot=of["hot"] / delivered,
            dead=after["dead"] / delivered,
        )

    async def look(self) -> dict[str, float]:
        """Return the counters of the server, the producer and the receiver."""
        while True:
            try:
                async with self._scene.connected() as connection:
                    row = await connection.fetchrow(_COUNTERS)
                break
            except (OSError, asyncpg.PostgresError):  # it is restarting, or the session was terminated
                await asyncio.sleep(0.05)
        found = {name: float(value) for name, value in row.items()}
        producer = float(self._producer.commits)
        delivered = float(self._scene.receiver.so_far().events)
        return found | {"at": time.monotonic(), "delivered": delivered, "producer": producer}


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events stored per minute.
        rounds: measurements of each phase.
        only: parts of names; empty for all but the phase of ten minutes.
    """
    found = []
    for lane in LANES:
        chosen = [phase for phase in _PHASES if _is_chosen(phase, lane, only)]
        if chosen:
            found += apart(_measure, lane, [_PHASES.index(each) for each in chosen], count / 60, rounds)
    return found


def _is_chosen(phase: _Phase, lane: Lane, only: Sequence[str]) -> bool:
    name = f"{phase.words}, {lane} lane"
    if phase.words == _TEN_MINUTES:
        return any("ten minutes" in part.lower() and part.lower() in name.lower() for part in only)
    return not only or any(part.lower() in name.lower() for part in only)


def _measure(lane: Lane, numbers: Sequence[int], rate: float, rounds: int) -> list[Comparison]:
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        server = stack.enter_context(postgresql())
        receiver = stack.enter_context(counting_receiver())
        scene = _Scene(lane, server, receiver, settings.home.parent / "drains.log", stack)
        return asyncio.run(_measure_phases(scene, [_PHASES[each] for each in numbers], rate, rounds))


async def _measure_phases(
    scene: _Scene, phases: Sequence[_Phase], rate: float, rounds: int
) -> list[Comparison]:
    async with scene.connected() as connection:
        await connection.execute("ALTER SYSTEM SET max_connections = 400")
    await asyncio.to_thread(scene.server.stop)
    await asyncio.to_thread(scene.server.start)
    await _measure_apart(scene, int(rate * _SECONDS))
    store = await WorkerStore.open(scene.server.url)
    try:
        await _measure_phase(scene, store, _Phase("warm-up", _nothing, 0.0), rate)
        found = []
        for phase in phases:
            found += [await _measure_phase(scene, store, phase, rate) for _ in range(rounds)]
        return list(itertools.chain.from_iterable(found))
    finally:
        await store.close()


async def _measure_apart(scene: _Scene, count: int) -> None:
    """Store events, then start the drains, which send them, and print what both cost."""
    scene.receiver.expect(0)
    store = await WorkerStore.open(scene.server.url)
    measuring = _Measuring(scene, _Producer(store, 0.0))
    before = await measuring.look()
    for start in range(0, count, _BATCH):
        await store.enqueue(events(min(_BATCH, count - start)), ENDPOINT)
    await store.close()  # sessions count with a delay, and at their end
    stored = await measuring.look()
    for _ in range(_DRAINS):
        scene.start_drain()
    while scene.receiver.so_far().events < count:
        await asyncio.sleep(0.1)
    await asyncio.sleep(_WARM_UP_SECONDS)
    delivered = await measuring.look()
    for words, first, last in (("storing", before, stored), ("delivering", stored, delivered)):
        of = {name: (last[name] - first[name]) / count for name in first}
        say(
            f"  {words} {count} events, {scene.lane} lane: {of['wal']:,.0f} bytes of WAL, {of['commits']:.3f} commits, "
            f"{of['versions']:.2f} versions ({of['hot']:.2f} HOT) each"
        )


async def _measure_phase(scene: _Scene, store: WorkerStore, phase: _Phase, rate: float) -> list[Comparison]:
    scene.receiver.expect(0)  # never reached, so the receiver prints nothing on its own
    scene.kills = 0
    producer = _Producer(store, rate)
    measuring = _Measuring(scene, producer)
    storing = asyncio.create_task(producer.run())
    await asyncio.sleep(_WARM_UP_SECONDS)
    if not phase.seconds:
        await _stop(scene, producer, storing)
        return []
    before = compared = await measuring.window(_SECONDS)
    if phase.control is not None:
        async with phase.control(scene):
            compared = await measuring.window(phase.seconds)
    producer.rate = rate * phase.load
    async with phase.strike(scene):
        during = await measuring.window(phase.seconds)
    producer.rate = rate
    after = await measuring.window(_SECONDS)
    empty_after = await _stop(scene, producer, storing)
    receipts = scene.receiver.so_far()
    lost = producer.stored - receipts.events
    in_flight = scene.kills * scene.most_in_flight
    name = f"{phase.words}, {scene.lane} lane"
    say(
        f"  {name}: {before.rate:.0f}/s before, {compared.rate:.0f} compared with, {during.rate:.0f} during, {after.rate:.0f} after; "
        f"{lost} of {producer.stored} lost, {receipts.duplicates} sent twice ({scene.kills} kills), all delivered "
        f"{empty_after:.1f} s after the last was stored"
    )
    for words, window in (("before", before), ("during", during), ("after", after)):
        say(
            f"    per delivery {words}: {window.wal_bytes:,.0f} bytes of WAL, {window.commits:.3f} commits, {window.versions:.2f} "
            f"versions ({window.hot:.2f} HOT), {window.dead:.2f} dead rows"
        )
    against = "before" if phase.control is None else "with the same CPU burnt elsewhere"
    return [
        _compared(f"{name}: during", "events/s", during.rate, compared.rate, against, least=phase.least),
        _compared(f"{name}: afterwards", "events/s", after.rate, before.rate, "before", least=0.95),
        _compared(f"{name}: lost", "events", lost, producer.stored, "stored", most=0),
        _compared(
            f"{name}: sent twice", "events", receipts.duplicates, producer.stored, "stored", most=in_flight
        ),
        _compared(f"{name}: WAL", "bytes per delivery", during.wal_bytes, before.wal_bytes, "before"),
        _compared(f"{name}: commits", "per delivery", during.commits, before.commits, "before"),
        _compared(f"{name}: dead rows", "per delivery", during.dead, max(before.dead, 0.01), "before"),
    ]


async def _stop(scene: _Scene, producer: _Producer, storing: asyncio.Task[None]) -> float:
    """Stop storing events; return the seconds until all are delivered."""
    producer.is_over = True
    await storing
    began_at = time.monotonic()
    while scene.receiver.so_far().events < producer.stored or await producer.store.unfinished():
        if time.monotonic() - began_at > _LONGEST_SECONDS:
            break
        await asyncio.sleep(0.1)
    return time.monotonic() - began_at


def _compared(
    what: str,
    unit: str,
    ours: float,
    baseline: float,
    against: str,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Comparison:
    return Comparison(what, unit, [ours], [baseline], against, ratio_at_least=least, ours_at_most=most)
