"""An export of the metrics: the first one, and the next after 1,000 new attempts; of stores a hundred times as large.

All attempts lie inside the window. An export here is what the flow does without Prefect: read, count, write the text, draw.
Each store has a process of its own, whose memory is its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, text

from benches.measuring import Comparison, Stopwatch, say
from benches.surroundings import empty_home
from resonant.store import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from resonant.settings import Settings

EVENTS = 1_000_000
ROUNDS = 7
_SMALLER = (100, 10)
_NEW_ATTEMPTS = 1_000
_AT_MOST_FIRST_SECONDS = 10
_AT_MOST_CPU_SECONDS = 0.5
_AT_MOST_MB = 500
_AT_MOST_GROWTH = 1.2
_SPAN_SECONDS = 23 * 3600.0
# Each fifth event fails at first, and each fiftieth twice, for good. Event i of the store begins at :start + i * :step.
_ATTEMPTS_AN_EVENT = 1.2
_NUMBERS = (
    "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :first + :count)"
)
_ENDPOINT, _TYPE = "'endpoint-' || (i % 4)", "'com.example.t' || (i % 5)"
_AT = ":start + (i - :first) * :step"
_TOOK = "0.01 + (i * 7919 % 10007) / 10007.0"
_FILL = (
    f"""{_NUMBERS} INSERT INTO resonant_events (id, type, source, time, digest, accepted_at, body)
    SELECT 'evt_' || i, {_TYPE}, '/bench', '2026-01-01T00:00:00Z', 'd' || i, {_AT}, x'00' FROM n""",
    f"""{_NUMBERS} INSERT INTO resonant_deliveries (id, event_id, endpoint, event_type, status, accepted_at,
    round_started_at, first_attempt_at, attempts, finished_at, reason, category, code, error_type, error, cause_id)
    SELECT i, 'evt_' || i, {_ENDPOINT}, {_TYPE}, iif(i % 50, 'delivered', 'dead_letter'), {_AT}, {_AT}, {_AT},
    iif(i % 5, 1, 2), {_AT} + iif(i % 5, 0, 1.2) + {_TOOK}, iif(i % 50, NULL, 'exhausted'), iif(i % 5, NULL, 'transient'),
    iif(i % 5, NULL, 'http_503'), iif(i % 5, NULL, 'UnexpectedStatus'), iif(i % 5, NULL, 'the endpoint answered 503'),
    iif(i % 50, NULL, 1 + i % 20) FROM n""",
    f"""{_NUMBERS} INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, result, category, code,
    error_type, decision, delay)
    SELECT i, 1, 1, {_AT}, {_TOOK}, iif(i % 5, 'delivered', 'failed'), iif(i % 5, NULL, 'transient'),
    iif(i % 5, NULL, 'http_503'), iif(i % 5, NULL, 'UnexpectedStatus'), iif(i % 5, NULL, 'retry'),
    iif(i % 5, NULL, 1 + (i * 31 % 1000) / 5000.0) FROM n
    UNION ALL
    SELECT i, 2, 1, {_AT} + 1.2, {_TOOK}, iif(i % 50, 'delivered', 'failed'), iif(i % 50, NULL, 'transient'),
    iif(i % 50, NULL, 'http_503'), iif(i % 50, NULL, 'UnexpectedStatus'), iif(i % 50, NULL, 'give_up'), NULL
    FROM n WHERE i % 5 = 0 ORDER BY 4""",
)
_FILL_ONCE = (
    """WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19) INSERT INTO resonant_causes
    (id, digest, fingerprint, endpoint, event_type, reason, category, code, error_type, error, varies)
    SELECT i + 1, 'd' || i, 'f', 'endpoint-' || (i % 4), 'com.example.t' || (i % 5), 'exhausted', 'transient', 'http_503',
    'UnexpectedStatus', 'the endpoint answered 503', 0 FROM n""",
    """INSERT INTO resonant_endpoints (name, accepted)
    SELECT endpoint, count(*) FROM resonant_deliveries GROUP BY endpoint""",
    # As many rows as hours, kinds and buckets make, however many attempts there were.
    """WITH RECURSIVE h(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM h WHERE i < 24) INSERT INTO resonant_rollups
    (measure, minute, endpoint, event_type, result, category, code, le, count, total)
    SELECT measure, 3600 * i, endpoint, event_type, 'delivered', '', '', le, 1, le FROM h,
    (SELECT DISTINCT endpoint, event_type FROM resonant_deliveries), (SELECT 'attempt' measure UNION SELECT 'delivery'),
    (SELECT 0.25 le UNION SELECT 0.5 UNION SELECT 1.0 UNION SELECT 2.5)""",
)


class _Measured(NamedTuple):
    """Seconds of the first export, of the next ones, the CPU of these, that of reading in these, and megabytes."""

    first: float
    next: list[float]
    cpu: list[float]
    reading: list[float]
    megabytes: float


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return what came out; ``count`` is how many attempts the largest store has."""
    sizes = [count // part for part in _SMALLER] + [count]
    found = {}
    for size in sizes:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            found[size] = process.submit(_measure, size, rounds).result()
        first, next_, cpu, reading, megabytes = found[size]
        say(
            f"  {size:,} attempts: first {first:.2f} s, next {statistics.median(next_):.3f} s "
            f"({statistics.median(cpu):.3f} s of CPU, {statistics.median(reading):.3f} s of it reading), {megabytes:.0f} MB"
        )
    smallest, largest = found[sizes[0]], found[count]
    against, of = f"of {sizes[0]:,}", f"of {count:,} attempts"
    new = f"next export {of}, {_NEW_ATTEMPTS:,} of them new"
    return [
        Comparison(
            f"first export {of}",
            "s",
            [largest.first],
            [smallest.first],
            against,
            ours_at_most=_AT_MOST_FIRST_SECONDS,
        ),
        Comparison(f"{new}, CPU", "s", largest.cpu, smallest.cpu, against, ours_at_most=_AT_MOST_CPU_SECONDS),
        # A target for how much it grows is one for ours in terms of the baseline.
        Comparison(
            new,
            "s",
            largest.next,
            smallest.next,
            against,
            ours_at_most=_AT_MOST_GROWTH * statistics.median(smallest.next),
        ),
        Comparison(f"{new}, reading and counting alone", "s", largest.reading, smallest.reading, against),
        Comparison(
            f"most memory {of}",
            "MB",
            [largest.megabytes],
            [smallest.megabytes],
            against,
            ours_at_most=_AT_MOST_MB,
        ),
    ]


def _measure(size: int, rounds: int) -> _Measured:
    from resonant import charts  # noqa: F401 - before what is measured, as the flow's process does

    with empty_home() as settings:
        return asyncio.run(_measure_store(settings, size, rounds))


async def _measure_store(settings: Settings, size: int, rounds: int) -> _Measured:
    store = await open_store(settings.store_url)
    now = time.time()
    events = round(size / _ATTEMPTS_AN_EVENT)
    await store.write(_fill, first=1, count=events, start=now - _SPAN_SECONDS, seconds=_SPAN_SECONDS - 60)
    await store.write(lambda connection: [connection.execute(text(each)) for each in _FILL_ONCE])
    folder = settings.home / "metrics"
    os.sync()  # what filling it has left to be written would be waited for by the exports
    with Stopwatch() as first:
        await _export(store, settings, folder)
    os.sync()
    measured: list[tuple[Stopwatch, float]] = []
    for number in range(rounds + 1):
        more = round(_NEW_ATTEMPTS / _ATTEMPTS_AN_EVENT)
        start = time.time() - 5
        await store.write(_fill, first=1 + events, count=more, start=start, seconds=4.0)
        events += more
        with Stopwatch() as watch:
            reading = await _export(store, settings, folder)
        if number:  # the first is to warm up
            measured.append((watch, reading))
    await store.close()
    return _Measured(
        first.seconds,
        [watch.seconds for watch, _ in measured],
        [watch.cpu_seconds for watch, _ in measured],
        [reading for _, reading in measured],
        _peak_megabytes(),
    )


def _fill(connection: Connection, *, first: int, count: int, start: float, seconds: float) -> None:
    values = {"first": first, "count": count, "start": start, "step": seconds / count}
    for statement in _FILL:
        connection.execute(text(statement), values)


async def _export(store: Store, settings: Settings, folder: Path) -> float:
    """Do what the flow does; return the CPU seconds of reading and counting."""
    from resonant import charts
    from resonant.exposition import registry_of, to_text
    from resonant.files import atomic_file
    from resonant.report import tables
    from resonant.window import measure_sliding

    with Stopwatch() as reading:
        hours = settings.metrics_window_hours
        totals, found = await measure_sliding(store, hours=hours, folder=folder / "window")
    with atomic_file(folder / "resonant.prom") as write:
        write(to_text(registry_of(totals, found)))
    tables(found)
    charts.latency(found)
    charts.outcomes(found)
    charts.dead_letters(found)
    charts.retry_delays(found.delays, settings.default_policy, settings.policy())
    return reading.cpu_seconds


def _peak_megabytes() -> float:
    """Return the most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
