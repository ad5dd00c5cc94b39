"""Accepts events: idempotent by event id, in one transaction, possibly the producer's own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from resonant.errors import ConflictingEvent, EndpointError
from resonant.events import ENDPOINT_NAME, Event, rfc3339
from resonant.store import schema
from resonant.store.counts import acceptances
from resonant.store.engine.sql import insert_into, is_any_of, require_connection
from resonant.store.queue.events import read_events

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Column, Connection, Row

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Conflict:
    """A refused event: its id already exists with different content."""

    given: Event
    stored: Event

    def __str__(self) -> str:
        return (
            f"id {self.given.id!r} already exists with different content: "
            f"given {_summary(self.given)}; stored {_summary(self.stored)}"
        )


@dataclass(frozen=True, slots=True)
class EnqueueResult:
    """The outcome of a batch: deliveries accepted now, deliveries known before, conflicting events.

    ``delivery_ids`` holds the keys of the accepted and the known deliveries.
    """

    accepted: int = 0
    known: int = 0
    conflicts: tuple[Conflict, ...] = ()
    delivery_ids: tuple[int, ...] = field(default=(), repr=False, compare=False)


def enqueue(
    connection: Connection,
    events: Event | Iterable[Event],
    endpoint: str,
    *,
    now: float | None = None,
    policy: str | None = None,
    max_attempts: int | None = None,
    report_conflicts: bool = False,
    wake: bool = True,
) -> EnqueueResult:
    """Store one or more events for an endpoint inside the caller's transaction; the caller commits.

    Enqueueing the same id and content for the same endpoint again changes nothing. Transactions with a common id wait for
    each other; on SQLite, all writers do. Prefer one call with many events: a call locks its ids in order, so two calls
    cannot deadlock.

    Args:
        connection: an open transaction on a database that has Resonant's tables (``create_schema`` creates them). With
            an ``AsyncConnection``, call ``await connection.run_sync(enqueue, ...)``; with a ``Session``, pass
            ``session.connection()``.
        events: one or more events, all held in memory.
        endpoint: the endpoint's name.
        now: seconds since the epoch; the wall clock by default.
        policy: a policy's name, stored with the deliveries.
        max_attempts: overrides the policy's limit; stored with the deliveries.
        report_conflicts: return conflicts instead of raising at the first one; they are not stored.
        wake: wake idle drains on commit; otherwise a drain finds the events within a quarter of a second. On PostgreSQL,
            waking is a NOTIFY: such commits wait for each other, and the transaction cannot be prepared.

    Raises:
        EndpointError: invalid name. A name has lower case letters, digits and single dashes, and the prefix
            ``BLOCK-TYPE/`` unless it is a webhook.
        ConflictingEvent: an id already exists with different content (unless ``report_conflicts``).
        TypeError: ``connection`` is not an SQLAlchemy ``Connection``.
    """
    require_connection(connection)
    if not ENDPOINT_NAME.fullmatch(endpoint):
        # The message omits the name: it may be a URL with a secret, and names get into labels and logs.
        raise EndpointError(
            "an endpoint's name may contain only lower case letters, digits and single dashes, as in billing-eu"
        )
    now = time.time() if now is None else now
    given = [(event, event.digest) for event in ([events] if isinstance(events, Event) else events)]
    first: dict[str, tuple[Event, str]] = {}
    for event, digest in given:
        first.setdefault(event.id, (event, digest))
    digests = _store_events(connection, first, now)
    refused = [event for event, digest in given if digest != digests[event.id]]
    conflicts = tuple(Conflict(event, read_events(connection, [event.id])[event.id]) for event in refused)
    if conflicts and not report_conflicts:
        raise ConflictingEvent(str(conflicts[0]))

    wanted = {event.id: event.type for event, digest in given if digest == digests[event.id]}
    common = {
        "endpoint": endpoint,
        "status": "pending",
        "accepted_at": now,
        "round_started_at": now,
        "next_attempt_at": now,
        "available_at": now,
        "policy": policy,
        "max_attempts": max_attempts,
    }
    rows = [{"event_id": event_id, "event_type": type_, **common} for event_id, type_ in wanted.items()]
    table = schema.deliveries.c
    accepted = _insert(connection, rows, table.event_id, table.id)
    if accepted:
        acceptances.add(connection, endpoint, len(accepted), wake=wake)
    delivery_ids = [row.id for row in accepted]
    if known := wanted.keys() - {row.event_id for row in accepted}:
        of_known = select(table.id).where(table.endpoint == endpoint, is_any_of(table.event_id, list(known)))
        delivery_ids += connection.execute(of_known).scalars()
    return EnqueueResult(
        len(accepted), len(given) - len(accepted) - len(conflicts), conflicts, tuple(delivery_ids)
    )


def _store_events(connection: Connection, events: dict[str, tuple[Event, str]], now: float) -> dict[str, str]:
    """Insert the missing events; return the stored digest of each."""
    digests: dict[str, str] = {}
    time_of_acceptance = rfc3339(now)
    # Repeats only if a purge removes a known event between the insert and the lock.
    while missing := [pair for event_id, pair in events.items() if event_id not in digests]:
        table = schema.events
        rows: list[dict[str, object]] = [
            {
                "id": event.id,
                "type": event.type,
                "source": event.source,
                "subject": event.subject,
                "time": time_of_acceptance if event.time is None else event.time,
                "digest": digest,
                "accepted_at": now,
                "body": event.body,
            }
            for event, digest in missing
        ]
        inserted = {row.id for row in _insert(connection, rows, table.c.id)}
        digests.update((event_id, events[event_id][1]) for event_id in inserted)
        if ids := [event.id for event, _ in missing if event.id not in inserted]:
            known = select(table.c.id, table.c.digest).where(is_any_of(table.c.id, ids))
            held = connection.execute(known.with_for_update(read=True, key_share=True))
            digests.update((row.id, row.digest) for row in held)
    return digests


def _insert(
    connection: Connection, rows: list[dict[str, object]], key: Column[str], *more: Column[Any]
) -> Sequence[Row[Any]]:
    """Insert the missing rows; return the key and the requested columns of each inserted row."""
    if not rows:
        return ()
    # Sorted by key, so that two producers of the same ids cannot deadlock.
    rows.sort(key=lambda row: str(row[key.name]))
    return connection.execute(_inserting(connection.dialect.name, key, *more), rows).all()


@cache
def _inserting(dialect: str, key: Column[str], *more: Column[Any]) -> Any:
    return insert_into(dialect, key.table).on_conflict_do_nothing().returning(key, *more)


def _summary(event: Event) -> str:
    text = event.body.decode(errors="replace")
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}… ({len(event.body):,} bytes, sha256 {sha256(event.body).hexdigest()[:12]})"
    attributes = {"type": event.type, "source": event.source, "time": event.time, "subject": event.subject}
    shown = [f"{name}={value}" for name, value in attributes.items() if value is not None]
    return " ".join([*shown, f"data={text}"])
