"""Fills a store with the history of many deliveries to one endpoint, with the rows that an emission would leave.

Each delivery has one attempt; every fiftieth is a permanent failure and a dead letter. Counts are stored as after a
compaction.
"""

import time

from sqlalchemy import Connection

from benches.filling import NUMBERS, fill
from benches.surroundings import ENDPOINT
from resonant.dead_letters.purge import DAY_SECONDS
from resonant.store import WorkerStore
from resonant.store.counts.counters import Tally

_DAYS = 30
_TYPE = "com.example.order.paid"
# A hundred billion plus the number: digits of equal length, which sort like the numbers.
_DIGITS = "(100000000000 + i)"
_UUID = f"'01900000-0000-7000-8000-' || {_DIGITS}"
_OWNER = "96380c5f-1636-46fc-adb1-1861c0523fd1"
_AT = ":start + i * :step"
_DEAD = "i % 50 = 0"


def _took(number: str) -> str:
    """Return an attempt's duration in seconds: 1/64 to 1/2, exact in binary, so that sums are exact."""
    return f"(1 + {number} % 32) / 64.0"


def _if_dead(*values: str) -> str:
    return ", ".join(f"CASE WHEN {_DEAD} THEN {value} END" for value in values)


_FAILURE = _if_dead("'permanent'", "'http_400'", "'UnexpectedStatus'", "'the endpoint answered 400'")
_DELIVERIES = (
    f"INSERT INTO resonant_endpoints (name, accepted) VALUES ('{ENDPOINT}', :count)",
    f"INSERT INTO resonant_claims (endpoint, last_claim_at) VALUES ('{ENDPOINT}', :start)",
    f"""INSERT INTO resonant_causes
    (id, digest, fingerprint, endpoint, event_type, reason, category, code, error_type, error, varies)
    VALUES (1, 'd', 'f', '{ENDPOINT}', '{_TYPE}', 'permanent', 'permanent', 'http_400', 'UnexpectedStatus',
    'the endpoint answered 400', false)""",
    f"""{NUMBERS} INSERT INTO resonant_events (key, id, type, source, time, digest, accepted_at, webhook_id, body)
    SELECT i, 'evt_' || {_UUID}, '{_TYPE}', 'https://shop.example.com/orders', '2026-01-01T00:00:00.000Z',
    '{"0" * 52}' || {_DIGITS}, {_AT}, 'evt_' || {_UUID}, :body FROM n""",
    f"""{NUMBERS} INSERT INTO resonant_deliveries (id, event_key, endpoint, event_type, status, accepted_at,
    round_started_at, first_attempt_at, attempts, round_attempts, lease_token, finished_at, status_code, reason, category,
    code, error_type, error, cause_id)
    SELECT i, i, '{ENDPOINT}', '{_TYPE}', CASE WHEN {_DEAD} THEN 'dead_letter' ELSE 'delivered' END,
    {_AT}, {_AT}, {_AT}, 1, 1, 1, {_AT} + {_took("i")}, CASE WHEN {_DEAD} THEN 400 ELSE 200 END, {_if_dead("'permanent'")},
    {_FAILURE}, {_if_dead("1")} FROM n""",
    f"""{NUMBERS} INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, owner, task_run_id, result,
    status_code, category, code, error_type, error, blame, excerpt, decision)
    SELECT i, 1, 1, {_AT}, {_took("i")}, '{_OWNER}', {_UUID}, CASE WHEN {_DEAD} THEN 'failed' ELSE 'delivered' END,
    CASE WHEN {_DEAD} THEN 400 ELSE 200 END, {_FAILURE}, {_if_dead("'endpoint'", "'Bad Request'", "'give_up'")} FROM n""",
)

_HOUR = 3600


async def fill_history(url: str, count: int) -> None:
    """Fill an empty store with this many deliveries of the past days."""
    now = time.time()
    span = _DAYS * DAY_SECONDS
    await fill(url, _DELIVERIES, count=count, start=now - span, step=span / count)
    store = await WorkerStore.open(url)
    await store.write(_count, range(int(now - span), int(now), _HOUR), count)
    await store.compact()
    await store.close()


def _count(connection: Connection, hours: range, count: int) -> None:
    """Count the deliveries, as many in each hour."""
    for start, number in zip(hours, _parts(count, len(hours)), strict=True):
        tally = Tally(start)
        for i in range(number):
            took = (1 + i % 32) / 64
            ending, failure = ("dead_letter", ("permanent", "http_400")) if i % 50 == 0 else ("delivered", ())
            result = "failed" if failure else "delivered"
            tally.add("attempt", ENDPOINT, _TYPE, result, *failure, seconds=took)
            tally.add("delivery", ENDPOINT, _TYPE, ending, *failure, seconds=took)
        tally.settle(connection)


def _parts(count: int, parts: int) -> list[int]:
    return [count * (part + 1) // parts - count * part // parts for part in range(parts)]
