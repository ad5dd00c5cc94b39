"""Reads events."""

from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, select

from resonant.events import Event
from resonant.store import schema
from resonant.store.engine.sql import is_any_of_given

_e = schema.events.c
# In the order of the parameters of `Event.from_stored`.
EVENT_COLUMNS: tuple[Any, ...] = (
    *(_e.id, _e.type, _e.source, _e.body, _e.time, _e.subject, _e.form, _e.datacontenttype, _e.dataschema),
    *(_e.extensions, _e.traceparent, _e.tracestate, _e.webhook_id),
)


def read_events(connection: Connection, keys: list[int]) -> dict[int, Event]:
    """Return the events with these keys that are stored, by key."""
    rows = connection.execute(_of_events(), {"keys": keys}).all()
    return {key: Event.from_stored(*columns) for key, *columns in rows}


@cache
def _of_events() -> Select[Any]:
    return select(_e.key, *EVENT_COLUMNS).where(is_any_of_given(_e.key, "keys"))
