"""The history of deliveries: every attempt. Rows are only added, never changed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, select

from resonant.events import Attempt
from resonant.store import schema
from resonant.store.engine.sql import insert_all, is_any_of

_ATTEMPT_FIELDS = tuple(field.name for field in fields(Attempt))
_ATTEMPT_COLUMNS = (*_ATTEMPT_FIELDS, "late", "delivery_id")
# Rows per statement: three statements insert any number of rows. SQLite binds at most 32,766 values.
_ROWS_AT_ONCE = (64, 8, 1)
# A poll of an unfinished flow run. Statistics leave it out: nothing failed, and nothing was sent again.
POLL_CODE = "run_unfinished"
is_poll = and_(schema.attempts.c.code == POLL_CODE, schema.attempts.c.early, ~schema.attempts.c.late)
_OF_FAILURE = ("status_code", "category", "code", "error_type", "error")


class AttemptKey(NamedTuple):
    """Identifies an attempt, even among attempts charged for lost leases."""

    delivery_id: int
    number: int
    started_at: float
    owner: str | None
    result: str


def recorded_attempts(connection: Connection, delivery_ids: Collection[int]) -> dict[AttemptKey, bool]:
    """Return the attempts that the history of these deliveries already contains, and whether each came late."""
    if not delivery_ids:
        return {}
    a = schema.attempts.c
    query = select(a.late, a.delivery_id, a.number, a.started_at, a.owner, a.result)
    rows = connection.execute(query.where(is_any_of(a.delivery_id, list(delivery_ids))))
    return {AttemptKey(*key): late for late, *key in rows}


def without_polls(connection: Connection, attempts: Mapping[int, int]) -> dict[int, int]:
    """Return the numbers of attempts of these deliveries, without polls."""
    a = schema.attempts.c
    tried = [each for each, number in attempts.items() if number]
    query = select(a.delivery_id, func.count()).where(is_poll, is_any_of(a.delivery_id, tried))
    polls = dict(map(tuple, connection.execute(query.group_by(a.delivery_id)))) if tried else {}
    return {each: number - polls.get(each, 0) for each, number in attempts.items()}


def attempt_row(delivery_id: int, attempt: Attempt, *, late: bool) -> dict[str, Any]:
    """Return the row of this attempt."""
    row = {name: getattr(attempt, name) for name in _ATTEMPT_FIELDS}
    for name in ("error_type", "error", "excerpt", "warning"):
        row[name] = storable(row[name])
    return {**row, "late": late, "delivery_id": delivery_id}


def last_failure(row: Mapping[str, Any]) -> dict[str, object]:
    """Return the columns of a delivery's last failure, from the row of the attempt."""
    return {name: row[name] for name in _OF_FAILURE}


def add_attempts(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to the history.

    On SQLite, one statement inserts many rows. The driver releases the GIL for each statement, and then waits for the sending
    thread to release it. With one row per statement, these waits took a third of the commit time.
    """
    if connection.dialect.name != "sqlite":
        insert_all(connection, schema.attempts, rows)
        return
    start = 0
    for size in _ROWS_AT_ONCE:
        while len(rows) - start >= size:
            values = [row[name] for row in rows[start : start + size] for name in _ATTEMPT_COLUMNS]
            connection.exec_driver_sql(_adding_attempts(size), tuple(values))
            start += size


def storable(text: str | None) -> str | None:
    """Replace characters that receivers may send but databases reject: NUL and lone surrogates."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


@cache
def _adding_attempts(rows: int) -> str:
    row = f"({', '.join('?' * len(_ATTEMPT_COLUMNS))})"
    names = ", ".join(_ATTEMPT_COLUMNS)
    return f"INSERT INTO {schema.attempts.name} ({names}) VALUES {', '.join([row] * rows)}"  # noqa: S608 - our own names
