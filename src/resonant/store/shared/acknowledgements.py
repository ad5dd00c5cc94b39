"""Acknowledged causes of dead letters: alerts leave them out, and the triage lists them last.

An acknowledgement ends by itself, with the last of the dead letters that it was given for: once these are replayed or purged, the
next failure opens the cause again.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select

from resonant.store import schema
from resonant.store.audit import record_change
from resonant.store.engine.sql import insert_into, is_any_of

_a, _c, _d = schema.acknowledged_causes, schema.causes, schema.deliveries


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Who acknowledged a cause and when, in seconds since the epoch."""

    at: float
    by: str
    note: str | None = None


def read_acknowledged(connection: Connection) -> dict[str, Acknowledgement]:
    """Return the acknowledgements that have not ended, by cause (``DeadLetterGroup.fingerprint``)."""
    # The index by cause finds the oldest at once.
    oldest = select(func.min(_d.c.finished_at)).where(schema.is_dead_letter, _d.c.cause_id == _c.c.id)
    is_left = select(_c.c.id).where(
        _c.c.fingerprint == _a.c.cause, oldest.scalar_subquery() <= _a.c.acknowledged_at
    )
    query = select(_a.c.cause, _a.c.acknowledged_at, _a.c.acknowledged_by, _a.c.note).where(is_left.exists())
    return {cause: Acknowledgement(*rest) for cause, *rest in connection.execute(query)}


def acknowledge(connection: Connection, cause: str, *, who: str, note: str | None, now: float) -> int:
    """Acknowledge a cause, and return the number of its dead letters; without any, change nothing. Ended ones are removed.

    Args:
        connection: in a write transaction.
        cause: as ``DeadLetterGroup.fingerprint``.
        note: shown with the cause; None keeps that of an earlier acknowledgement that has not ended.
    """
    number, last_at = _dead_letters(connection, cause)
    if not number:
        return 0
    connection.execute(delete(_a).where(~is_any_of(_a.c.cause, list(read_acknowledged(connection)))))
    # The clock of the worker that gave up the last one may be ahead.
    row = {"acknowledged_at": max(now, last_at), "acknowledged_by": who} | ({"note": note} if note else {})
    new = insert_into(connection.dialect.name, _a).values(cause=cause, **row)
    connection.execute(new.on_conflict_do_update(index_elements=[_a.c.cause], set_=row))
    selection = {"cause": cause, "note": note}
    record_change(connection, at=now, who=who, action="acknowledge", selection=selection)
    return number


def reopen(connection: Connection, cause: str, *, who: str, now: float) -> int:
    """End the acknowledgement of a cause, and return the number of its dead letters; 0 if it was not acknowledged."""
    if cause not in read_acknowledged(connection):
        return 0
    connection.execute(delete(_a).where(_a.c.cause == cause))
    record_change(connection, at=now, who=who, action="reopen", selection={"cause": cause})
    return _dead_letters(connection, cause)[0]


def _dead_letters(connection: Connection, cause: str) -> tuple[int, float]:
    """Return the number of dead letters of a cause, and when the last one was given up."""
    is_of_cause = _d.c.cause_id.in_(select(_c.c.id).where(_c.c.fingerprint == cause))
    query = select(func.count(), func.max(_d.c.finished_at)).where(schema.is_dead_letter, is_of_cause)
    number, last_at = connection.execute(query).one()
    return number, last_at or 0.0
