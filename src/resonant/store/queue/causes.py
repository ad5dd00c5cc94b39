"""The causes of dead letters, each stored once; a dead letter references its cause.

A queue of a million dead letters has a few hundred causes. Filters therefore select causes, and an index by cause finds
their dead letters. Errors with variable parts would create one cause per dead letter. So each kind of failure (endpoint,
event type, reason, code) stores its first fifty errors unchanged and later ones normalised; after a hundred causes, it stores
no error text. A normalised cause or one without text ``varies``: a filter by text reads each of its dead letters.

Causes are never removed: their number is bounded, and a worker may be about to reference one. If a cause has no dead letters left,
a purge removes its error, and the next such failure restores it. An erasure also removes its hash. On PostgreSQL, a lock on the
cause keeps a purge and a new dead letter apart.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select

from resonant.events import Reason
from resonant.store import schema
from resonant.store.engine.sql import insert_into, is_any_of
from resonant.store.queue.fingerprint import fingerprint, normalised

MOST_ERRORS = 50
MOST_NORMALISED = 100
# The error type of dead letters whose events were erased. They cannot be replayed.
ERASED = "Erased"
_ANY_ERROR = "<any>"
_ERASED_DIGEST = "erased-"
_OF_FAILURE = ("category", "code", "error_type", "error")
_c, _d = schema.causes, schema.deliveries
_is_used = select(_d.c.id).where(schema.is_dead_letter, _d.c.cause_id == _c.c.id).exists()


class Cause(NamedTuple):
    """Why a delivery was given up; missing values are empty strings."""

    endpoint: str
    event_type: str
    reason: str
    category: str = ""
    code: str = ""
    error_type: str = ""
    error: str = ""
    varies: bool = False

    @classmethod
    def of(cls, endpoint: str, event_type: str, reason: Reason, failure: Mapping[str, Any]) -> "Cause":
        """Return the cause of a delivery that is given up; ``failure`` has the columns of its last failure, if any."""
        category, code, error_type, error = (failure[name] or "" for name in _OF_FAILURE)
        return cls(endpoint, event_type, reason, category, code, error_type, error)

    @property
    def digest(self) -> str:
        """A hash of all fields, as 32 hex digits."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:32]


def point_at_causes(
    connection: Connection, changes: Iterable[dict[str, object]], causes: Mapping[object, Cause]
) -> None:
    """Add the id of the delivery's cause, if any, to each change; ``key`` is the delivery's id."""
    if not causes:
        return
    ids = cause_ids(connection, causes.values())
    for change in changes:
        if cause := causes.get(change["id"]):
            change["cause_id"] = ids[cause]


def cause_ids(connection: Connection, causes: Iterable[Cause]) -> dict[Cause, int]:
    """Return the id of each cause, and store new causes."""
    wanted = set(causes)
    known = _read_ids(connection, wanted)
    if new := sorted(wanted - known.keys(), key=lambda cause: (_kind(cause), cause)):
        kept = _bounded(connection, new)
        _store(connection, set(kept.values()))
        ids = _read_ids(connection, set(kept.values()))
        known.update({cause: ids[kept[cause]] for cause in new})
    return known


def is_known(connection: Connection, fingerprint: str) -> bool:
    """Return whether a dead letter was ever stored with this fingerprint."""
    return (
        connection.execute(select(_c.c.id).where(_c.c.fingerprint == fingerprint).limit(1)).first()
        is not None
    )


def forget_errors(connection: Connection, endpoints: Iterable[str], event_types: Iterable[str]) -> None:
    """Remove the errors, hashes and acknowledgements of causes without dead letters, for these endpoints and types.

    The causes of earlier rounds are not found, since a delivery no longer references them.
    """
    theirs = is_any_of(_c.c.endpoint, list(endpoints)), is_any_of(_c.c.event_type, list(event_types))
    unused = connection.execute(_unused(*theirs)).scalars().all()
    forget_unused_errors(connection, unused, with_hashes=True)
    end_acknowledgements(connection)


def find_unused(connection: Connection, *, after: int, limit: int) -> list[int]:
    """Return the ids, in ascending order, of causes that have errors but no dead letters, after the given id."""
    return list(connection.execute(_unused(_c.c.id > after).limit(limit)).scalars())


def forget_unused_errors(
    connection: Connection, cause_ids: Sequence[int], *, with_hashes: bool = False
) -> None:
    """Remove the errors of these causes if they have no dead letters. Call ``end_acknowledgements`` afterwards.

    Args:
        connection: in a write transaction.
        cause_ids: the ids of causes.
        with_hashes: remove the hashes, too.
    """
    query = select(_c.c.id, _c.c.endpoint, _c.c.code).where(is_any_of(_c.c.id, cause_ids))
    # Waits for workers that have read the causes, and makes later ones wait: see `_read_ids`.
    locked = connection.execute(query.order_by(_c.c.id).with_for_update()).all()
    rows = [
        {"its_id": row.id, "fingerprint": fingerprint(row.endpoint, row.code, "")}
        | ({"digest": f"{_ERASED_DIGEST}{row.id}"} if with_hashes else {})
        for row in locked
    ]
    if rows:
        # A dead letter may have been stored before the lock.
        unused = _c.update().where(_c.c.id == bindparam("its_id"), ~_is_used)
        connection.execute(unused.values(error=""), rows)


def end_acknowledgements(connection: Connection) -> None:
    """Remove the acknowledgements of causes whose errors were removed."""
    acknowledged = schema.acknowledged_causes
    connection.execute(acknowledged.delete().where(acknowledged.c.cause.not_in(select(_c.c.fingerprint))))


def _unused(*which: ColumnElement[bool]) -> Select[int]:
    return select(_c.c.id).where(*which, _c.c.error != "", ~_is_used).order_by(_c.c.id)


def _bounded(connection: Connection, new: list[Cause]) -> dict[Cause, Cause]:
    """Map each cause to the one to store: itself, or a general one if its kind already has many."""
    kept: dict[Cause, Cause] = {}
    general = {cause: cause._replace(error=normalised(cause.error), varies=True) for cause in new}
    known = _read_ids(connection, set(general.values())).keys()
    for kind, causes in groupby(new, key=_kind):
        count = _count(connection, kind)
        for cause in causes:
            if count < MOST_ERRORS:
                kept[cause] = cause
            elif general[cause] in known or count < MOST_NORMALISED:
                kept[cause] = general[cause]
            else:
                kept[cause] = general[cause]._replace(error=_ANY_ERROR)
            count += 1
    return kept


def _kind(cause: Cause) -> tuple[str, str, str, str]:
    return cause.endpoint, cause.event_type, cause.reason, cause.code


def _count(connection: Connection, kind: tuple[str, str, str, str]) -> int:
    columns = (_c.c.endpoint, _c.c.event_type, _c.c.reason, _c.c.code)
    of_kind = [column == value for column, value in zip(columns, kind, strict=True)]
    of_kind.append(~_c.c.digest.startswith(_ERASED_DIGEST))
    return connection.execute(select(func.count()).where(*of_kind)).scalar_one()


def _store(connection: Connection, causes: set[Cause]) -> None:
    insert = insert_into(connection.dialect.name, _c)
    rows = [
        {
            **cause._asdict(),
            "digest": cause.digest,
            "fingerprint": fingerprint(cause.endpoint, cause.code, cause.error),
        }
        for cause in causes
    ]
    # Sorted by digest, so that two workers cannot deadlock.
    rows.sort(key=lambda row: str(row["digest"]))
    connection.execute(insert.on_conflict_do_nothing(), rows)


def _read_ids(connection: Connection, causes: set[Cause]) -> dict[Cause, int]:
    """Return the ids of known causes, and restore the errors that a purge has removed.

    The lock keeps a purge from removing them before this transaction commits a dead letter.
    """
    if not causes:
        return {}
    by_digest = {cause.digest: cause for cause in causes}
    query = select(_c.c.digest, _c.c.id, _c.c.error).where(is_any_of(_c.c.digest, list(by_digest)))
    query = query.order_by(_c.c.id).with_for_update(read=True, key_share=True)
    found: dict[Cause, int] = {}
    for digest, cause_id, error in connection.execute(query).all():
        cause = by_digest[digest]
        found[cause] = cause_id
        if cause.error != error:
            changes = {
                "error": cause.error,
                "fingerprint": fingerprint(cause.endpoint, cause.code, cause.error),
            }
            connection.execute(_c.update().where(_c.c.id == cause_id).values(changes))
    return found
