"""Watches: the flows whose failed runs an endpoint gets, and the time until which these runs were read from Prefect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from resonant.routing.globs import any_glob
from resonant.store import schema
from resonant.store.audit import record_change
from resonant.store.engine.sql import insert_into

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from resonant.store.audit import Action

_w = schema.run_watches


@dataclass(frozen=True, slots=True)
class RunWatch:
    """An endpoint gets an event for each failed flow run that matches. Times are seconds since the Unix epoch.

    Attributes:
        flow: glob for the flow's name; empty for all.
        tag: a tag of the run; empty for all.
        watermark: all runs that failed between ``created_at`` and this time are stored.
        created_at: runs that failed before this time are not stored.
    """

    endpoint: str
    flow: str = ""
    tag: str = ""
    watermark: float = 0.0
    created_at: float = 0.0

    def __str__(self) -> str:
        tag = f" with the tag {self.tag}" if self.tag else ""
        return f"failed, crashed and late runs of {self.flow or 'every flow'}{tag}"

    @property
    def key(self) -> tuple[str, str, str]:
        """The fields that identify it."""
        return self.endpoint, self.flow, self.tag

    def matches_flow(self, name: str) -> bool:
        """Return whether the runs of the flow with this name are watched."""
        return not self.flow or any_glob([self.flow])(name)


def add_watch(connection: Connection, watch: RunWatch, *, who: str, now: float) -> bool:
    """Store a watch that begins now; return False if it exists, which changes nothing."""
    row = {
        "endpoint": watch.endpoint,
        "flow": watch.flow,
        "tag": watch.tag,
        "watermark": now,
        "created_at": now,
    }
    new = insert_into(connection.dialect.name, _w).values(row).on_conflict_do_nothing()
    if not connection.execute(new).rowcount:
        return False
    _audit(connection, "automation enable", watch, who=who, now=now)
    return True


def remove_watch(connection: Connection, watch: RunWatch, *, who: str, now: float) -> bool:
    """Remove a watch; return whether it existed. Stored events stay."""
    return bool(_remove(connection, _is(watch), who=who, now=now))


def remove_watches_of(connection: Connection, endpoint: str, *, who: str, now: float) -> int:
    """Remove all watches of an endpoint; return their number."""
    return _remove(connection, _w.c.endpoint == endpoint, who=who, now=now)


def read_watches(connection: Connection) -> list[RunWatch]:
    """Return all watches, sorted by endpoint, flow and tag."""
    return _read(connection)


def advance_watch(connection: Connection, watch: RunWatch, until: float) -> None:
    """Record that all runs that failed before this time are stored. A watch never moves back."""
    is_older = _w.c.watermark < until
    connection.execute(update(_w).where(_is(watch), is_older).values(watermark=until))


def _remove(connection: Connection, condition: ColumnElement[bool], *, who: str, now: float) -> int:
    found = _read(connection, condition)
    for each in found:
        _audit(connection, "automation disable", each, who=who, now=now)
    connection.execute(_w.delete().where(condition))
    return len(found)


def _read(connection: Connection, *conditions: ColumnElement[bool]) -> list[RunWatch]:
    columns = (_w.c.endpoint, _w.c.flow, _w.c.tag, _w.c.watermark, _w.c.created_at)
    query = select(*columns).where(*conditions).order_by(_w.c.endpoint, _w.c.flow, _w.c.tag)
    return [RunWatch(*row) for row in connection.execute(query)]


def _is(watch: RunWatch) -> ColumnElement[bool]:
    return (_w.c.endpoint == watch.endpoint) & (_w.c.flow == watch.flow) & (_w.c.tag == watch.tag)


def _audit(connection: Connection, action: Action, watch: RunWatch, *, who: str, now: float) -> None:
    selection = {"endpoint": watch.endpoint, "flow": watch.flow, "tag": watch.tag}
    record_change(
        connection,
        at=now,
        who=who,
        action=action,
        selection={key: value for key, value in selection.items() if value},
    )
