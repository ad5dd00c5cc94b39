"""The pages of the console beside a large store on SQLite: the p95 of each page, beside that of a page that reads nothing.

By default 1,000,000 deliveries to 2,000 endpoints, a tenth of them dead letters. Each endpoint was busy in each minute of the
last hour and in each hour of the day. ``--events`` sets the number of deliveries; ``--only PART`` selects pages by a part of
their path.
"""

import asyncio
import contextlib
import sqlite3
import statistics
import time
from collections.abc import Sequence

import httpx
from sqlalchemy import Connection

from benches.comparing import Comparison, is_chosen, say
from benches.processes import kept, python
from benches.surroundings import empty_home
from resonant.local.server import free_port
from resonant.settings import Settings
from resonant.store import WorkerStore
from resonant.store.counts.counters import Tally

EVENTS, ROUNDS = 1_000_000, 1
_ENDPOINTS, _CAUSES = 2_000, 200
_REQUESTS = 20
_START_SECONDS = 30.0
_TARGET_MILLISECONDS = 150.0
_NOTHING = "/static/icon.svg"
_PAGES = (
    "/",
    "/status",
    "/endpoints",
    "/endpoints/endpoint-0007",
    "/deliveries",
    "/deliveries?endpoint=endpoint-0007",
    "/deliveries?text=evt_0000123",
    "/events/%2Fshop/evt_0000007",
    "/dead-letters",
    "/dead-letters/replay?endpoint=endpoint-0000",
    "/dead-letters/purge?endpoint=endpoint-0000",
    "/deliveries/cancel?endpoint=endpoint-0007",
    "/subscriptions",
    "/audit",
)
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)"
_EVENTS = f"""{_NUMBERS} INSERT INTO resonant_events (key, id, source, type, time, digest, accepted_at, webhook_id, body)
SELECT i + 1, printf('evt_%07d', i), '/shop', 'order.' || i % 5, '2026-01-01T00:00:00Z', 'x', :begin + i * :step, 'msg_' || i,
       CAST('{{"order": ' || i || '}}' AS BLOB) FROM n"""
_DELIVERIES = """INSERT INTO resonant_deliveries (event_key, endpoint, event_type, status, accepted_at, round_started_at, attempts,
  round_attempts, first_attempt_at, finished_at, available_at, next_attempt_at, reason, category, code, error, status_code, cause_id)
SELECT key, printf('endpoint-%04d', (key - 1) % :endpoints), type, status, accepted_at, accepted_at, 1, 1, accepted_at,
  CASE WHEN NOT status = 'retrying' THEN accepted_at + 1 END, CASE WHEN status = 'retrying' THEN :now + key % 3600 END,
  CASE WHEN status = 'retrying' THEN :now + key % 3600 END, CASE WHEN status = 'dead_letter' THEN 'permanent' END,
  CASE WHEN NOT status = 'delivered' THEN 'permanent' END, CASE WHEN NOT status = 'delivered' THEN 'http_400' END,
  CASE WHEN NOT status = 'delivered' THEN 'the endpoint answered 400' END, CASE WHEN NOT status = 'delivered' THEN 400 END,
  CASE WHEN status = 'dead_letter' THEN 1 + (key - 1) % :causes END
FROM (SELECT *, CASE WHEN (key - 1) % 10 = 0 THEN 'dead_letter' WHEN key % 50 = 2 THEN 'retrying' ELSE 'delivered' END AS status
      FROM resonant_events)"""
_ATTEMPTS = """INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, result, code, category)
SELECT id, 1, 1, accepted_at, 0.02, CASE WHEN status = 'delivered' THEN 'delivered' ELSE 'failed' END, code, category FROM resonant_deliveries"""
_CAUSE_ROWS = f"""{_NUMBERS} INSERT INTO resonant_causes
(id, digest, fingerprint, endpoint, event_type, reason, category, code, error_type, error, varies)
SELECT i + 1, 'digest' || i, printf('cause%08d', i), printf('endpoint-%04d', i), 'order.' || i % 5, 'permanent', 'permanent',
       'http_400', '', 'the endpoint answered 400', 0 FROM n"""
_LEDGERS = "INSERT INTO resonant_endpoints (name, accepted) SELECT endpoint, count(*) FROM resonant_deliveries GROUP BY endpoint"


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: deliveries.
        rounds: rounds of requests for each page.
        only: parts of paths; empty for all.
    """
    chosen = [page for page in _PAGES if is_chosen(page, only)]
    with empty_home() as settings:
        asyncio.run(_fill(settings, count))
        port = free_port()
        command = python("resonant", "console", "--port", str(port))
        with (
            kept(command, log=settings.home.parent / "console.log"),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60.0) as client,
        ):
            _wait(client)
            say(f"  the first page after the start: {_request(client, '/'):.0f} ms")
            found = {page: [_p95(client, page) for _ in range(rounds)] for page in (_NOTHING, *chosen)}
    return [
        Comparison(
            f"p95, {page}",
            "ms",
            found[page],
            found[_NOTHING],
            "for a file",
            ours_at_most=_TARGET_MILLISECONDS,
        )
        for page in chosen
    ]


async def _fill(settings: Settings, count: int) -> None:
    store = await WorkerStore.open(settings.store_url)
    try:
        now = store.clock()
        given = {
            "count": count,
            "begin": now - 86_400.0,
            "step": 86_000.0 / count,
            "endpoints": _ENDPOINTS,
            "causes": _CAUSES,
            "now": now,
        }
        with contextlib.closing(sqlite3.connect(settings.home / "resonant.db")) as connection:
            for statement in (_EVENTS, _DELIVERIES, _ATTEMPTS, _CAUSE_ROWS, _LEDGERS):
                connection.execute(
                    statement, given | ({"count": _CAUSES} if statement is _CAUSE_ROWS else {})
                )
                connection.commit()
            connection.execute("ANALYZE")
        hour = now // 3600 * 3600
        moments = [
            *(hour - 3600.0 * back for back in range(1, 23)),
            *(now - 60.0 * back for back in range(60)),
        ]
        for moment in moments:
            await store.write(_count, moment)
        await store.write(_leave_unfolded, now)
    finally:
        await store.close()


def _count(connection: Connection, moment: float) -> None:
    _tally(moment).settle(connection)


def _leave_unfolded(connection: Connection, now: float) -> None:
    _tally(now).write(connection)


def _tally(moment: float) -> Tally:
    tally = Tally(moment)
    for number in range(_ENDPOINTS):
        where = f"endpoint-{number:04d}", f"order.{number % 5}"
        tally.add("attempt", *where, "delivered", seconds=0.02 + number / 1e5)
        tally.add("delivery", *where, "delivered", seconds=0.05)
        tally.add("first_attempt", *where, seconds=0.01)
    return tally


def _wait(client: httpx.Client) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            client.get(_NOTHING)
            return
        if time.monotonic() > give_up_at:
            raise RuntimeError("the console does not start")
        time.sleep(0.1)


def _p95(client: httpx.Client, page: str) -> float:
    taken = [_request(client, page) for _ in range(_REQUESTS)]
    return statistics.quantiles(taken, n=20, method="inclusive")[-1]


def _request(client: httpx.Client, page: str) -> float:
    """Return how long a page takes, in milliseconds."""
    begin = time.perf_counter()
    client.get(page, headers={"accept": "text/html"}).raise_for_status()
    return 1e3 * (time.perf_counter() - begin)
