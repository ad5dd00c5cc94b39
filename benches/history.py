"""Fills a store with the history of many deliveries to one endpoint, with the rows that an emission would leave.

Each delivery has one attempt; every fiftieth is a permanent failure and a dead letter. Counts are stored as after a
compaction: those of the last minutes in the rollups, earlier ones in the totals and in the history by minute and by hour.
"""

from __future__ import annotations

import time

from benches.filling import NUMBERS, fill
from benches.surroundings import ENDPOINT
from resonant.dead_letters.purge import DAY_SECONDS
from resonant.store.counter_compaction import MINUTES_KEPT_SECONDS, STAYING_SECONDS
from resonant.store.counts.counters import BUCKETS

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
    f"""{NUMBERS} INSERT INTO resonant_events (id, type, source, time, digest, accepted_at, body)
    SELECT 'evt_' || {_UUID}, '{_TYPE}', 'https://shop.example.com/orders', '2026-01-01T00:00:00.000Z',
    '{"0" * 52}' || {_DIGITS}, {_AT}, :body FROM n""",
    f"""{NUMBERS} INSERT INTO resonant_deliveries (id, event_id, endpoint, event_type, status, accepted_at,
    round_started_at, first_attempt_at, attempts, round_attempts, lease_token, finished_at, status_code, reason, category,
    code, error_type, error, cause_id)
    SELECT i, 'evt_' || {_UUID}, '{ENDPOINT}', '{_TYPE}', CASE WHEN {_DEAD} THEN 'dead_letter' ELSE 'delivered' END,
    {_AT}, {_AT}, {_AT}, 1, 1, 1, {_AT} + {_took("i")}, CASE WHEN {_DEAD} THEN 400 ELSE 200 END, {_if_dead("'permanent'")},
    {_FAILURE}, {_if_dead("1")} FROM n""",
    f"""{NUMBERS} INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, owner, task_run_id, result,
    status_code, category, code, error_type, error, blame, excerpt, decision)
    SELECT i, 1, 1, {_AT}, {_took("i")}, '{_OWNER}', {_UUID}, CASE WHEN {_DEAD} THEN 'failed' ELSE 'delivered' END,
    CASE WHEN {_DEAD} THEN 400 ELSE 200 END, {_FAILURE}, {_if_dead("'endpoint'", "'Bad Request'", "'give_up'")} FROM n""",
)

_LE = "".join(f" WHEN {_took('id')} <= {le} THEN {le}" for le in BUCKETS if le <= 0.5)
_MEASURED = (
    f"COALESCE(category, ''), COALESCE(code, ''), CASE {_LE} END, {_took('id')} FROM resonant_deliveries"
)
_FACTS = f"""(SELECT accepted_at AS at, 'accepted' AS measure, 'accepted' AS result, '' AS category, '' AS code,
    CAST(:infinity AS DOUBLE PRECISION) AS le, 0.0 AS seconds FROM resonant_deliveries
    UNION ALL SELECT finished_at, 'attempt', CASE status WHEN 'delivered' THEN status ELSE 'failed' END, {_MEASURED}
    UNION ALL SELECT finished_at, 'delivery', status, {_MEASURED}) facts"""


def _start_of(size: int) -> str:
    """Return the start of a fact's minute or hour. A cast alone rounds in one database and truncates in the other."""
    return f"CAST(ROUND(at / {size} - 0.5) AS BIGINT) * {size}"


_LABELS, _COUNTED = "measure, result, category, code", "count(*), sum(seconds)"
_ROLLUPS = (
    f"""INSERT INTO resonant_rollups (minute, endpoint, event_type, le, {_LABELS}, count, total)
    SELECT {_start_of(60)}, '{ENDPOINT}', '{_TYPE}', le, {_LABELS}, {_COUNTED} FROM {_FACTS}
    WHERE at >= :moved GROUP BY 1, le, {_LABELS}""",
    f"""INSERT INTO resonant_rollup_totals (endpoint, le, {_LABELS}, count, total)
    SELECT '{ENDPOINT}', le, {_LABELS}, {_COUNTED} FROM {_FACTS} WHERE at < :moved GROUP BY le, {_LABELS}""",
    *(
        f"""INSERT INTO resonant_rollup_history (minute, endpoint, event_type, {_LABELS}, count, total)
        SELECT {_start_of(size)}, '{ENDPOINT}', '{_TYPE}', {_LABELS}, {_COUNTED} FROM {_FACTS}
        WHERE {condition} GROUP BY 1, {_LABELS}"""
        for size, condition in ((60, "at >= :gathered AND at < :moved"), (3600, "at < :gathered"))
    ),
)


async def fill_history(url: str, count: int) -> None:
    """Fill an empty store with this many deliveries of the past days."""
    now = time.time()
    span = _DAYS * DAY_SECONDS
    await fill(
        url,
        (*_DELIVERIES, *_ROLLUPS),
        count=count,
        start=now - span,
        step=span / count,
        moved=int(now - STAYING_SECONDS) // 60 * 60 + 60,
        gathered=int(now - MINUTES_KEPT_SECONDS) // 3600 * 3600,
    )
