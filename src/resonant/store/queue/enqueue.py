"""Accepts events: idempotent by source and id, in one transaction, possibly the producer's own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import select

from resonant.errors import ConflictingEvent, EndpointError
from resonant.events import ENDPOINT_NAME, Event, EventKey, rfc3339
from resonant.events.webhook_ids import webhook_id
from resonant.store import schema
from resonant.store.counts import acceptances
from resonant.store.engine.migrate import move_known
from resonant.store.engine.sql import insert_missing, is_any_of, is_any_of_given, require_connection
from resonant.store.queue.events import read_events

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Select

_SHOWN_CHARACTERS = 200
_MOST_PASSES = 10


@dataclass(frozen=True, slots=True)
class Conflict:
    """A refused event: its source and id already exist with different content."""

    given: Event
    stored: Event

    def __str__(self) -> str:
        return (
            f"id {self.given.id!r} of source {self.given.source!r} already exists with different content: "
            f"given {_summary(self.given)}; stored {_summary(self.stored)}"
        )


@dataclass(frozen=True, slots=True)
class EnqueueResult:
    """The outcome of a batch: deliveries accepted now, deliveries known before, conflicting events.

    ``delivery_ids`` holds the keys of the accepted and the known deliveries. ``dropped_traces`` counts the given events whose
    ``traceparent`` or ``tracestate`` was invalid; they are stored without it.
    """

    accepted: int = 0
    known: int = 0
    conflicts: tuple[Conflict, ...] = ()
    delivery_ids: tuple[int, ...] = field(default=(), repr=False, compare=False)
    dropped_traces: int = 0


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

    Enqueueing the same source, id and content for the same endpoint again changes nothing. Transactions with a common id wait
    for each other; on SQLite, all writers do. Prefer one call with many events: a call locks its ids in order, so two calls
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
        ConflictingEvent: a source and id already exist with different content (unless ``report_conflicts``).
        TypeError: ``connection`` is not an SQLAlchemy ``Connection``.
    """
    require_connection(connection)
    if not ENDPOINT_NAME.fullmatch(endpoint):
        # The message omits the name: it may be a URL with a secret, and names get into labels and logs.
        raise EndpointError(
            "an endpoint's name may contain only lower case letters, digits and single dashes, as in billing-eu"
        )
    now = time.time() if now is None else now
    given = [
        (event.identity, event, event.digest) for event in ([events] if isinstance(events, Event) else events)
    ]
    first: dict[EventKey, tuple[Event, str]] = {}
    for identity, event, digest in given:
        first.setdefault(identity, (event, digest))
    stored = _store_events(connection, first, now)
    conflicts: list[Conflict] = []
    wanted: dict[int, str] = {}
    for identity, event, digest in given:
        known = stored[identity]
        if digest != known.digest and (conflict := _conflict(connection, event, known)):
            conflicts.append(conflict)
        else:
            wanted[known.key] = event.type
    if conflicts and not report_conflicts:
        raise ConflictingEvent(str(conflicts[0]))

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
    # In the order of the keys, so that two producers of the same events cannot deadlock.
    rows = [{"event_key": key, "event_type": type_, **common} for key, type_ in sorted(wanted.items())]
    table = schema.deliveries.c
    accepted = insert_missing(connection, schema.deliveries, rows, table.event_key, table.id)
    if accepted:
        acceptances.add(connection, endpoint, len(accepted), wake=wake)
    delivery_ids = [row.id for row in accepted]
    if others := wanted.keys() - {row.event_key for row in accepted}:
        of_known = select(table.id).where(
            table.endpoint == endpoint, is_any_of(table.event_key, list(others))
        )
        delivery_ids += connection.execute(of_known).scalars()
    return EnqueueResult(
        len(accepted),
        len(given) - len(accepted) - len(conflicts),
        tuple(conflicts),
        tuple(delivery_ids),
        sum(event.drops_trace for _, event, _ in given),
    )


class _Stored(NamedTuple):
    """The key and the digest of a stored event."""

    key: int
    digest: str


def _store_events(
    connection: Connection, events: dict[EventKey, tuple[Event, str]], now: float
) -> dict[EventKey, _Stored]:
    """Insert the missing events; return what is stored of each."""
    # Events of an older version may have their ids, or have taken a webhook-id.
    move_known(connection, (text for each in events for text in (each.id, webhook_id(each, is_taken=True))))
    stored: dict[EventKey, _Stored] = {}
    taken: set[str] = set()
    table, time_of_acceptance = schema.events.c, rfc3339(now)
    # The second pass inserts events whose ids other sources have. It takes more only if a purge removes an event between the
    # insert and the lock.
    for _ in range(_MOST_PASSES):
        # In the order of the ids, so that two producers of the same ids cannot deadlock.
        missing = sorted(events.keys() - stored.keys(), key=_id_first)
        if not missing:
            return stored
        rows = []
        for identity in missing:
            event, digest = events[identity]
            # An archived event with a hash keeps it.
            is_hashed = event.webhook_id not in (None, event.id)
            row = _columns(event, webhook_id(identity, is_taken=is_hashed or identity.id in taken))
            row |= {"time": event.time or time_of_acceptance, "digest": digest, "accepted_at": now}
            rows.append(row)
        for source, id_, key in insert_missing(
            connection, schema.events, rows, table.source, table.id, table.key
        ):
            identity = EventKey(source, id_)
            stored[identity] = _Stored(key, events[identity][1])
        if ids := [identity.id for identity in missing if identity not in stored]:
            for source, id_, key, digest, named in connection.execute(_holding(), {"ids": ids}).all():
                identity = EventKey(source, id_)
                if identity in events:
                    stored[identity] = _Stored(key, digest)
                if named == id_:
                    taken.add(id_)
    raise ConflictingEvent(f"the webhook-id of the event {missing[0].id!r} belongs to another event")


def _conflict(connection: Connection, event: Event, known: _Stored) -> Conflict | None:
    """Return the conflict of an event with a known one that has another digest; None if it is a repeat.

    It is a repeat if it has the time of acceptance that the store gave to the known one, as an archived event does.
    """
    stored = read_events(connection, [known.key])[known.key]
    parts = {name: getattr(event, name) for name in Event.__slots__}
    timeless = Event.from_stored(**{**parts, "time": None})
    is_repeat = event.time == stored.time and timeless.digest == known.digest
    return None if is_repeat else Conflict(event, stored)


def _columns(event: Event, its_webhook_id: str) -> dict[str, object]:
    return {
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "webhook_id": its_webhook_id,
        "form": None if event.form == "json" else event.form,
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        "extensions": event.extensions_json,
        "traceparent": event.traceparent,
        "tracestate": event.tracestate,
        "body": event.body,
    }


def _id_first(identity: EventKey) -> tuple[str, str]:
    return identity.id, identity.source


@cache
def _holding() -> Select[Any]:
    table = schema.events.c
    query = select(table.source, table.id, table.key, table.digest, table.webhook_id)
    return query.where(is_any_of_given(table.id, "ids")).with_for_update(read=True, key_share=True)


def _summary(event: Event) -> str:
    text = "" if event.form == "bytes" else event.body.decode()
    if event.form == "bytes" or len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}… ({len(event.body):,} bytes, sha256 {sha256(event.body).hexdigest()[:12]})"
    attributes = {
        "type": event.type,
        "time": event.time,
        "subject": event.subject,
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        "extensions": event.extensions_json,
        "data": None if event.form == "absent" else text,
    }
    return " ".join(f"{name}={value}" for name, value in attributes.items() if value is not None)
