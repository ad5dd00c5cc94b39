"""A large dead-letter queue in SQLite and PostgreSQL: the time of an operator's queries, and the rate of purging half of it."""

import asyncio
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import Connection, text

from benches.comparing import Comparison, Stopwatch, say
from benches.filling import NUMBERS, fill
from benches.surroundings import ENDPOINT, empty_home, events, postgresql
from resonant.cli.view import COUNTED
from resonant.dead_letters.purge import DAY_SECONDS, Retention, purge
from resonant.events import Attempt
from resonant.store import Outcome, Store, WorkerStore
from resonant.store.engine.database import open_database
from resonant.store.views.reads import count_dead_letters, each_dead_letter
from resonant.store.views.selection import Selection

EVENTS = 100_000
_LOOKS = 5
_LIMIT = 50
_AT_MOST_MS = 100
_AT_MOST_LOCKED_MS = 200
_AT_LEAST_PURGED = 20_000
_AT_MOST_MB = 300
# The queue's span: the older half is purged.
_DAYS = 60
_EMISSION_PAUSE_SECONDS = 0.02
# Forty kinds of failure, and two rare ones, each in one of a thousand dead letters. The errors of one rare kind all differ.
_KINDS = 40
_RARE, _VARYING = "i % 1000 = 7", "i % 1000 = 13"
_CAUSE = f"CASE WHEN {_RARE} THEN {_KINDS + 7} WHEN {_VARYING} THEN {_KINDS + 13} ELSE i % {_KINDS} END"
_CODE = f"CASE WHEN {_RARE} THEN 'tls_certificate' WHEN {_VARYING} THEN 'http_400' ELSE 'http_' || (500 + i % 10) END"
_ENDPOINT = f"CASE WHEN {_RARE} THEN 'rare' ELSE 'endpoint-' || (i % 20) END"
_CATEGORY = "CASE i % 10 WHEN 0 THEN 'permanent' WHEN 1 THEN 'unknown' ELSE 'transient' END"
_REASON = "CASE i % 10 WHEN 0 THEN 'permanent' WHEN 1 THEN 'crashed' ELSE 'exhausted' END"
_ERROR = f"CASE WHEN {_VARYING} THEN 'order ' || i || ' is refused' ELSE 'the endpoint answered ' || (500 + i % 10) END"
_FILL = (
    f"""{NUMBERS.replace(":count", "1013")} INSERT INTO resonant_causes
    (id, digest, fingerprint, endpoint, event_type, reason, category, code, error_type, error, varies)
    SELECT {_CAUSE}, 'd' || i, 'f' || i, {_ENDPOINT}, 'com.example.t' || (i % 40), {_REASON}, {_CATEGORY}, {_CODE},
    'UnexpectedStatus', {_ERROR}, {_VARYING} FROM n WHERE i > 1000 AND i <= 1013 OR i > 13 AND i <= 40""",
    f"""{NUMBERS} INSERT INTO resonant_events (key, id, type, source, time, digest, accepted_at, webhook_id, body)
    SELECT i, 'evt_' || i, 'com.example.t' || (i % 40), '/bench', '2026-01-01T00:00:00Z', 'd' || i, :start, 'evt_' || i,
    :body FROM n""",
    f"""{NUMBERS} INSERT INTO resonant_deliveries
    (id, event_key, endpoint, event_type, status, accepted_at, round_started_at, attempts, finished_at, first_attempt_at,
    reason, category, code, error_type, error, status_code, cause_id)
    SELECT i, i, {_ENDPOINT}, 'com.example.t' || (i % 40), 'dead_letter', :start, :start, 2, :start + i * :step,
    :start, {_REASON}, {_CATEGORY}, {_CODE}, 'UnexpectedStatus', {_ERROR}, 503, {_CAUSE} FROM n""",
    *(
        f"""{NUMBERS} INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, result, category,
        code, error_type, error, excerpt, decision)
        SELECT i, {number}, 1, :start, 0.02, 'failed', {_CATEGORY}, {_CODE}, 'UnexpectedStatus', 'the endpoint answered',
        'Service Unavailable', '{decision}' FROM n"""
        for number, decision in ((1, "park"), (2, "give_up"))
    ),
    """INSERT INTO resonant_endpoints (name, accepted)
    SELECT endpoint, count(*) FROM resonant_deliveries GROUP BY endpoint""",
)
# The baseline of the purge: deletes the remaining rows with one statement per table.
_BARE = [f"DELETE FROM resonant_{table}" for table in ("attempts", "deliveries", "events")]


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results; a queue is filled only once, regardless of ``rounds``."""
    del rounds
    found: list[Comparison] = []
    with empty_home() as settings:
        found += asyncio.run(_measure("SQLite", settings.store_url, count))
    with postgresql() as server:
        found += asyncio.run(_measure("PostgreSQL", server.url, count))
    return found


async def _measure(name: str, url: str, count: int) -> list[Comparison]:
    await (await WorkerStore.open(url)).close()
    now = time.time()
    with Stopwatch() as watch:
        start, span = now - _DAYS * DAY_SECONDS, _DAYS * DAY_SECONDS
        await fill(url, _FILL, count=count, start=start, step=span / count)
    say(f"  {name}: {count:,} dead letters after {watch.seconds:.0f} s")
    store = _TimedStore(await open_database(url))
    try:
        found = [await _look(name, what, store, look) for what, look in _looks(now).items()]
        before = _peak_megabytes()
        found += await _purge_half(name, url, store, count)
        found.append(
            Comparison(
                f"{name}: most memory",
                "MB",
                [_peak_megabytes()],
                [before],
                "before",
                ours_at_most=_AT_MOST_MB,
            )
        )
        return found
    finally:
        await store.close()


def _looks(now: float) -> dict[str, Callable[[Store], Awaitable[object]]]:
    """Return an operator's queries, by name."""

    def listing(**filters: Any) -> Callable[[Store], Awaitable[object]]:
        def both(connection: Connection) -> None:
            selection = Selection(**filters)
            if len([*each_dead_letter(connection, selection, limit=_LIMIT)]) == _LIMIT:
                count_dead_letters(connection, selection, at_most=COUNTED)

        return lambda store: store.read(both)

    half = now - _DAYS / 2 * DAY_SECONDS
    filters: dict[str, dict[str, Any]] = {
        "": {},
        "--endpoint": {"endpoint": "endpoint-3"},
        "--endpoint, 1 of 1,000": {"endpoint": "rare"},
        "--endpoint, none": {"endpoint": "nobody"},
        "--type": {"event_type": "com.example.t7"},
        "--type, a glob": {"event_type": "com.*"},
        "--type, a glob of few": {"event_type": "*.t7"},
        "--type, none": {"event_type": "org.*"},
        "--category": {"category": "permanent"},
        "--code": {"code": "http_503"},
        "--code, 1 of 1,000": {"code": "tls_certificate"},
        "--code, none": {"code": "http_404"},
        "--reason": {"reason": "crashed"},
        "--reason, none": {"reason": "cancelled"},
        "--text": {"text": "answered 503"},
        "--text, in what varies": {"text": "is refused"},
        "--text, none": {"text": "no such text"},
        "--since": {"since": half},
        "--until": {"until": half},
        "--endpoint --code": {"endpoint": "endpoint-3", "code": "http_503"},
    }
    looks = {f"dlq --limit {_LIMIT} {options}".rstrip(): listing(**each) for options, each in filters.items()}
    return {"status": lambda store: store.status(), **looks}


async def _look(name: str, what: str, store: Store, look: Callable[[Store], Awaitable[object]]) -> Comparison:
    async def best(asked: Callable[[Store], Awaitable[object]]) -> float:
        milliseconds = []
        for _ in range(_LOOKS):
            with Stopwatch() as watch:
                await asked(store)
            milliseconds.append(watch.seconds * 1000)
        return min(milliseconds)

    ours = await best(look)
    say(f"  {name}: {what}: {ours:.1f} ms")
    nothing = await best(
        lambda store: store.read(lambda connection: connection.execute(text("SELECT 1")).all())
    )
    return Comparison(f"{name}: {what}", "ms", [ours], [nothing], "SELECT 1", ours_at_most=_AT_MOST_MS)


async def _purge_half(name: str, url: str, store: "_TimedStore", count: int) -> list[Comparison]:
    done = asyncio.Event()
    emission = asyncio.create_task(_emit(url, done))
    with Stopwatch() as watch:
        report = await purge(store, Retention(dead_letters=_DAYS / 2), who="bench", now=store.clock())
    done.set()
    waits = await emission
    say(f"  {name}: {report.purged:,} purged in {watch.seconds:.1f} s, {len(waits):,} writes of the emission")
    if not (await store.status()).balanced or abs(report.purged - count / 2) > 1 + count / 1000:
        raise RuntimeError(f"{report}, and the balance does not hold")
    with Stopwatch() as bare:
        await store.database.write(lambda connection: [connection.execute(text(each)) for each in _BARE])
    locked = max(store.held_seconds) * 1000
    return [
        Comparison(
            f"{name}: purge of half, space reclaimed, while an emission goes on",
            "rows/s",
            [report.purged / watch.seconds],
            [count / 2 / bare.seconds],
            "bare DELETEs",
            ours_at_least=_AT_LEAST_PURGED,
        ),
        Comparison(
            f"{name}: longest transaction of the purge",
            "ms",
            [locked],
            [max(waits) * 1000],
            "longest write of the emission",
            ours_at_most=_AT_MOST_LOCKED_MS,
        ),
    ]


class _TimedStore(WorkerStore):
    """Records how long each of its writing transactions held its locks."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.held_seconds: list[float] = []

    async def write(self, operation: Any, *arguments: Any, **options: Any) -> Any:
        began = 0.0

        def timed(connection: Connection) -> Any:
            nonlocal began
            began = time.perf_counter()
            return operation(connection, *arguments, **options)

        result = await super().write(timed)
        self.held_seconds.append(time.perf_counter() - began)
        return result


async def _emit(url: str, done: asyncio.Event) -> list[float]:
    """Store, claim, begin and record ten events at a time, and return the seconds of each write."""
    store = await WorkerStore.open(url)
    seconds: list[float] = []

    async def timed(writing: Awaitable[Any]) -> Any:
        with Stopwatch() as watch:
            result = await writing
        seconds.append(watch.seconds)
        return result

    while not done.is_set():
        await timed(store.enqueue(events(10), ENDPOINT))
        leases = await timed(store.claim(ENDPOINT, owner="bench", limit=10))
        await timed(store.begin(leases))
        attempts = [Attempt(1, 1, time.time(), 0.02, "delivered", status_code=200) for _ in leases]
        outcomes = [Outcome(lease, attempt, None) for lease, attempt in zip(leases, attempts, strict=True)]
        await timed(store.record(outcomes))
        await asyncio.sleep(_EMISSION_PAUSE_SECONDS)
    await store.close()
    return seconds


def _peak_megabytes() -> float:
    """Return the peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
