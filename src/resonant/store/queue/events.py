"""Reads events."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from resonant.events import Event
from resonant.store import schema
from resonant.store.engine.sql import is_any_of_given

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row, Select


def read_events(connection: Connection, keys: list[int]) -> dict[int, Event]:
    """Return the events with these keys that are stored, by key."""
    return {row.key: event_of(row) for row in connection.execute(_of_events(), {"keys": keys})}


def event_of(row: Row[Any]) -> Event:
    """Convert a row to an event."""
    return Event.from_stored(
        row.id,
        row.type,
        row.source,
        bytes(row.body),
        row.time,
        row.subject,
        row.form,
        row.datacontenttype,
        row.dataschema,
        row.extensions,
        row.traceparent,
        row.tracestate,
        row.webhook_id,
    )


@cache
def _of_events() -> Select[Any]:
    table = schema.events
    return select(table).where(is_any_of_given(table.c.key, "keys"))
