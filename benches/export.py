"""Metrics exports, the first one and the next after 1,000 new attempts, from stores of up to a hundred times the size.

All attempts are inside the window and counted as in an emission, with a fold every five seconds. An export here is the flow
without Prefect: merge counts, read, count, write the text, read the input of the alerts, draw. Each store has its own process,
whose memory and CPU are measured; those of the PostgreSQL server are excluded.
"""

import asyncio
import contextlib
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from benches.comparing import Comparison, Stopwatch, apart, say
from benches.filling import NUMBERS, fill
from benches.surroundings import Missing, empty_home, postgresql
from resonant.metrics.alerts import read_raised
from resonant.metrics.conditions import read_activity
from resonant.settings import Settings
from resonant.store import WorkerStore, schema
from resonant.store.counts import sketches
from resonant.store.counts.counters import DelayOf, Tally
from resonant.store.counts.sketches import EVER, Packed

EVENTS = 1_000_000
ROUNDS = 7
_SMALLER = (100, 10)
_NEW_ATTEMPTS = 1_000
_FIRST_AT_MOST_CPU_SECONDS, _NEXT_AT_MOST_CPU_SECONDS = 0.5, 0.22
_AT_MOST_MB = 300
_AT_MOST_GROWTH = 1.2
_SPAN_SECONDS = 23 * 3600.0
# The interval of the scheduled flow, and the folds in it.
_EVERY_MINUTES = 5
_FOLDS_A_MINUTE = 12
# Every fifth event fails at first; every fiftieth fails twice and becomes a dead letter. Event i starts at :start + i * :step.
_ATTEMPTS_AN_EVENT = 1.2
_NUMBER = "(:first + i)"
_ENDPOINT, _TYPE = f"'endpoint-' || ({_NUMBER} % 4)", f"'com.example.t' || ({_NUMBER} % 5)"
_AT = ":start + i * :step"
_TOOK = f"0.01 + ({_NUMBER} % 10007 * 7919 % 10007) / 10007.0"
_FAILS, _DIES = f"{_NUMBER} % 5 = 0", f"{_NUMBER} % 50 = 0"
_FILL = (
    f"""{NUMBERS} INSERT INTO resonant_events (key, id, type, source, time, digest, accepted_at, webhook_id, body)
    SELECT {_NUMBER}, 'evt_' || {_NUMBER}, {_TYPE}, '/bench', '2026-01-01T00:00:00Z', 'd' || {_NUMBER}, {_AT},
    'evt_' || {_NUMBER}, '0' FROM n""",
    f"""{NUMBERS} INSERT INTO resonant_deliveries (id, event_key, endpoint, event_type, status, accepted_at,
    round_started_at, first_attempt_at, attempts, finished_at, reason, category, code, error_type, error, cause_id)
    SELECT {_NUMBER}, {_NUMBER}, {_ENDPOINT}, {_TYPE}, CASE WHEN {_DIES} THEN 'dead_letter' ELSE 'delivered' END,
    {_AT}, {_AT}, {_AT}, CASE WHEN {_FAILS} THEN 2 ELSE 1 END, {_AT} + CASE WHEN {_FAILS} THEN 1.2 ELSE 0 END + {_TOOK},
    CASE WHEN {_DIES} THEN 'exhausted' END, CASE WHEN {_FAILS} THEN 'transient' END,
    CASE WHEN {_FAILS} THEN 'http_503' END, CASE WHEN {_FAILS} THEN 'UnexpectedStatus' END,
    CASE WHEN {_FAILS} THEN 'the endpoint answered 503' END, CASE WHEN {_DIES} THEN 1 + {_NUMBER} % 20 END FROM n""",
    f"""{NUMBERS} INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, result, category, code,
    error_type, decision, delay)
    SELECT {_NUMBER}, 1, 1, {_AT}, {_TOOK}, CASE WHEN {_FAILS} THEN 'failed' ELSE 'delivered' END,
    CASE WHEN {_FAILS} THEN 'transient' END, CASE WHEN {_FAILS} THEN 'http_503' END,
    CASE WHEN {_FAILS} THEN 'UnexpectedStatus' END, CASE WHEN {_FAILS} THEN 'retry' END,
    CASE WHEN {_FAILS} THEN 1 + ({_NUMBER} * 31 % 1000) / 5000.0 END FROM n
    UNION ALL
    SELECT {_NUMBER}, 2, 1, {_AT} + 1.2, {_TOOK}, CASE WHEN {_DIES} THEN 'failed' ELSE 'delivered' END,
    CASE WHEN {_DIES} THEN 'transient' END, CASE WHEN {_DIES} THEN 'http_503' END,
    CASE WHEN {_DIES} THEN 'UnexpectedStatus' END, CASE WHEN {_DIES} THEN 'give_up' END, NULL
    FROM n WHERE {_FAILS} ORDER BY 4""",
)
_FILL_ONCE = (
    f"""{NUMBERS.replace(":count", "20")} INSERT INTO resonant_causes
    (id, digest, fingerprint, endpoint, event_type, reason, category, code, error_type, error, varies)
    SELECT i, 'd' || i, 'f', 'endpoint-' || ((i - 1) % 4), 'com.example.t' || ((i - 1) % 5), 'exhausted', 'transient',
    'http_503', 'UnexpectedStatus', 'the endpoint answered 503', false FROM n""",
    """INSERT INTO resonant_endpoints (name, accepted)
    SELECT endpoint, count(*) FROM resonant_deliveries GROUP BY endpoint""",
)
# Earlier counts after compaction: sixty days by hour, and a year by day. Each of them repeats the last full hour.
_FILL_HISTORY = tuple(
    f"""{NUMBERS.replace(":count", str(number))} INSERT INTO resonant_sketches (minute, entries, buckets)
    SELECT {before} - i * {size}, entries, buckets FROM n, resonant_sketches WHERE minute = :hour - 7200"""
    for number, size, before in ((58 * 24, 3600, ":hour - 26 * 3600"), (300, 86_400, ":day - 60 * 86400"))
)


class _Measured(NamedTuple):
    """Seconds and CPU seconds of the first and of the next exports, CPU seconds by step, and peak memory in MB."""

    first: float
    first_cpu: float
    next: list[float]
    cpu: list[float]
    steps: dict[str, list[float]]
    megabytes: float


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results; ``count`` is the number of attempts in the largest store."""
    found = []
    for name in ("SQLite", "PostgreSQL"):
        try:
            found += _compare(name, count, rounds)
        except Missing as error:
            say(f"  without {name}: {error}")
    return found


def _compare(name: str, count: int, rounds: int) -> list[Comparison]:
    sizes = [count // part for part in _SMALLER] + [count]
    found = {}
    for size in sizes:
        measured = found[size] = apart(_measure, name, size, rounds)
        steps = ", ".join(f"{what} {statistics.median(each):.3f}" for what, each in measured.steps.items())
        say(
            f"  {name}, {size:,} attempts: first {measured.first:.2f} s ({measured.first_cpu:.2f} s of CPU), next {statistics.median(measured.next):.3f} s "
            f"({statistics.median(measured.cpu):.3f} s of CPU: {steps}), {measured.megabytes:.0f} MB"
        )
    smallest, largest = found[sizes[0]], found[count]
    against, of = f"of {sizes[0]:,}", f"of {count:,} attempts"
    new = f"{name}: next export {of}, {_NEW_ATTEMPTS:,} of them new"
    return [
        Comparison(f"{name}: first export {of}", "s", [largest.first], [smallest.first], against),
        Comparison(
            f"{name}: first export {of}, CPU",
            "s",
            [largest.first_cpu],
            [smallest.first_cpu],
            against,
            ours_at_most=_FIRST_AT_MOST_CPU_SECONDS,
        ),
        Comparison(
            f"{new}, CPU",
            "s",
            largest.cpu,
            smallest.cpu,
            against,
            ours_at_most=_NEXT_AT_MOST_CPU_SECONDS,
            ratio_at_most=_AT_MOST_GROWTH,
        ),
        Comparison(new, "s", largest.next, smallest.next, against, ratio_at_most=_AT_MOST_GROWTH),
        *(
            Comparison(f"{new}, CPU of {what}", "s", largest.steps[what], smallest.steps[what], against)
            for what in largest.steps
        ),
        Comparison(
            f"{name}: most memory {of}",
            "MB",
            [largest.megabytes],
            [smallest.megabytes],
            against,
            ours_at_most=_AT_MOST_MB,
        ),
    ]


def _measure(name: str, size: int, rounds: int) -> _Measured:
    from resonant.metrics import charts, totals  # noqa: F401 - imported before measuring, as in the flow's process

    with empty_home() as settings, _store_url(name, settings) as url:
        rows = apart(_fill_store, url, size)
        return asyncio.run(_measure_store(url, settings, size, rounds, rows))


@contextlib.contextmanager
def _store_url(name: str, settings: Settings) -> Iterator[str]:
    if name == "SQLite":
        yield settings.store_url
        return
    with postgresql() as server:
        yield server.url


def _fill_store(url: str, size: int) -> list[Packed]:
    """Fill a store; return the sketches of the minutes between two exports, which dispatchers have folded and merged."""
    return asyncio.run(_fill_all(url, size))


async def _fill_all(url: str, size: int) -> list[Packed]:
    now, events = time.time(), round(size / _ATTEMPTS_AN_EVENT)
    store = await WorkerStore.open(url)
    seconds = _SPAN_SECONDS - 60
    await fill(
        url, (*_FILL, *_FILL_ONCE), count=events, first=0, start=now - _SPAN_SECONDS, step=seconds / events
    )
    tallies = await _count(store, after=0)
    await store.compact()
    await fill(url, _FILL_HISTORY, hour=int(now // 3600) * 3600, day=int(now // 86_400) * 86_400)
    await store.close()
    found = []
    for tally in tallies[-2 - _EVERY_MINUTES : -2]:
        minute, ever = tally.rows()
        found += [minute, *[ever] * _FOLDS_A_MINUTE]
    return found


async def _count(store: WorkerStore, *, after: int) -> list[Tally]:
    """Count the attempts and outcomes of deliveries with ids above this, as an emission would; return the counts by minute."""
    tallies: dict[int, Tally] = {}

    def count(at: float, *labels: Any, detail: str | None = None, seconds: float | None = None) -> None:
        tally = tallies.get(int(at // 60)) or tallies.setdefault(int(at // 60), Tally(at))
        tally.add(*labels, detail=detail, seconds=seconds)

    def read(connection: Connection) -> None:
        d, a = schema.deliveries.c, schema.attempts.c
        of_deliveries = select(
            *(d.endpoint, d.event_type, d.accepted_at, d.first_attempt_at, d.finished_at, d.attempts),
            *(d.reason, d.status, d.category, d.code),
        )
        for endpoint, type_, accepted_at, first_at, finished_at, attempts, reason, *why in _each(
            connection, of_deliveries.where(d.id > after)
        ):
            labels = why if why[0] == "dead_letter" else why[:1]
            took = finished_at - accepted_at
            count(finished_at, "delivery", endpoint, type_, *labels, detail=reason, seconds=took)
            count(finished_at, "retries", endpoint, type_, "", seconds=attempts - 1)
            count(first_at, "first_attempt", endpoint, type_, "", seconds=first_at - accepted_at)
        of_attempts = select(
            *(d.endpoint, d.event_type, a.started_at, a.duration, a.delay, a.error_type),
            *(a.result, a.category, a.code),
        ).join_from(schema.attempts, schema.deliveries)
        for endpoint, type_, started_at, took, delay, error_type, *why in _each(
            connection, of_attempts.where(d.id > after)
        ):
            at = started_at + took
            count(at, "attempt", endpoint, type_, *why, detail=error_type, seconds=took)
            if delay is not None:
                detail = DelayOf(1, asked=False, policy=None).to_text()
                count(at, "delay", endpoint, type_, "", detail=detail, seconds=delay)

    def write(connection: Connection) -> None:
        for _, tally in sorted(tallies.items()):
            tally.write(connection)

    await store.read(read)
    await store.write(write)
    return [tally for _, tally in sorted(tallies.items())]


def _each(connection: Connection, query: Any) -> Iterable[Any]:
    return connection.execute(query.execution_options(yield_per=10_000))


async def _measure_store(
    url: str, settings: Settings, size: int, rounds: int, rows: list[Packed]
) -> _Measured:
    store = await WorkerStore.open(url)
    folder = settings.home / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    events = round(size / _ATTEMPTS_AN_EVENT)
    os.sync()  # otherwise the exports would wait for the pending writes of the filling
    with Stopwatch() as first:
        await _export(store, settings, folder)
    os.sync()
    measured: list[tuple[Stopwatch, dict[str, float]]] = []
    for number in range(rounds + 1):
        more = round(_NEW_ATTEMPTS / _ATTEMPTS_AN_EVENT)
        start = time.time() - 5
        await fill(url, _FILL, count=more, first=events, start=start, step=4 / more)
        await _count(store, after=events)
        await store.write(_fold, rows)
        events += more
        os.sync()
        with Stopwatch() as watch:
            steps = await _export(store, settings, folder)
        if number:  # the first is a warm-up
            measured.append((watch, steps))
    await store.close()
    return _Measured(
        first.seconds,
        first.cpu_seconds,
        [watch.seconds for watch, _ in measured],
        [watch.cpu_seconds for watch, _ in measured],
        {what: [steps[what] for _, steps in measured] for what in measured[0][1]},
        _peak_megabytes(),
    )


def _fold(connection: Connection, rows: list[Packed]) -> None:
    """Insert these sketches again, in the last minutes."""
    late = int(time.time() // 60) * 60 - max(row.minute for row in rows)
    for row in rows:
        sketches.insert(connection, row if row.minute == EVER else row._replace(minute=row.minute + late))


async def _export(store: WorkerStore, settings: Settings, folder: Path) -> dict[str, float]:
    """Run the steps of the flow; return the CPU seconds of its steps in the store."""
    from resonant.files import atomic_file
    from resonant.metrics import charts
    from resonant.metrics.prometheus import registry_of, to_text
    from resonant.metrics.report import tables
    from resonant.metrics.totals import measure

    with Stopwatch() as compacting:
        await store.compact()
    with Stopwatch() as reading:
        totals, found = await measure(store, hours=settings.metrics_window_hours)
    with atomic_file(folder / "resonant.prom") as write:
        write(to_text(registry_of(totals, found)))
    with Stopwatch() as judging:
        await store.read(read_activity, now=totals.taken_at, window=settings.alert_window_seconds)
        await store.read(read_raised)
    tables(found)
    charts.latency(found)
    charts.outcomes(found)
    charts.dead_letters(found)
    charts.retry_delays(found.delays, settings.default_policy, settings.policy())
    return {
        "reading and counting": reading.cpu_seconds,
        "reading the input of alerts": judging.cpu_seconds,
        "compaction": compacting.cpu_seconds,
    }


def _peak_megabytes() -> float:
    """Return the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
