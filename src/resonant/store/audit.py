"""The audit: one row per operation, written before its first change; each transaction of the operation adds its count."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, insert, select, update

from resonant.events import Clock
from resonant.store import schema

P = ParamSpec("P")
T = TypeVar("T")
AuditAction = Literal[
    "replay",
    "cancel",
    "purge",
    "erase",
    "pause",
    "resume",
    "stop",
    "test",
    "acknowledge",
    "reopen",
    "subscription add",
    "subscription remove",
    "token create",
    "token revoke",
    "automation enable",
    "automation disable",
    "endpoint add",
    "endpoint update",
    "endpoint import",
    "endpoint rotate-secret",
    "endpoint remove",
]
_t = schema.audit


class _Store(Protocol):
    clock: Clock

    def write(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One operation: who did what to which selection, and how many deliveries it changed.

    Attributes:
        at: when it began, seconds since the epoch.
        count: how many deliveries it has changed so far.
        ended_at: when it ended or was stopped; None while it runs, or if it was killed.
    """

    at: float
    who: str
    action: str
    selection: dict[str, object]
    count: int
    ended_at: float | None


@asynccontextmanager
async def audited(
    store: _Store, *, who: str, action: AuditAction, selection: Mapping[str, object]
) -> AsyncIterator[int]:
    """Record an operation and its end in the audit; yield the id of the row, for ``add_to_audit``.

    Raises:
        StoreUnavailable: the operation cannot be recorded; nothing was changed.
    """
    beginning = asyncio.ensure_future(
        store.write(begin_audit, at=store.clock(), who=who, action=action, selection=selection)
    )
    try:
        # Shielded: a cancelled write may still commit, and its row needs an end.
        yield await asyncio.shield(beginning)
    finally:
        await store.write(end_audit, await beginning, now=store.clock())


def begin_audit(
    connection: Connection, *, at: float, who: str, action: AuditAction, selection: Mapping[str, object]
) -> int:
    """Record the start of an operation; return the id of its row."""
    asked = json.dumps(selection, ensure_ascii=False)
    row = insert(_t).values(at=at, who=who, action=action, selection=asked, count=0)
    audit_id: int = connection.execute(row.returning(_t.c.id)).scalar_one()
    return audit_id


def record_change(
    connection: Connection, *, at: float, who: str, action: AuditAction, selection: Mapping[str, object]
) -> int:
    """Record an operation that this transaction does as a whole; return the id of its row."""
    audit_id = begin_audit(connection, at=at, who=who, action=action, selection=selection)
    end_audit(connection, audit_id, now=at)
    return audit_id


def add_to_audit(connection: Connection, audit_id: int | None, count: int) -> None:
    """Add the number of deliveries that this transaction changes; does nothing if ``audit_id`` is None."""
    if audit_id is None or not count:
        return
    connection.execute(update(_t).where(_t.c.id == audit_id).values(count=_t.c["count"] + count))


def end_audit(connection: Connection, audit_id: int, *, now: float) -> None:
    """Record the end of an operation, at ``now`` in seconds since the epoch."""
    connection.execute(update(_t).where(_t.c.id == audit_id).values(ended_at=now))


def read_audit(
    connection: Connection, *, limit: int | None = None, action: AuditAction | None = None
) -> list[AuditEntry]:
    """Return audit entries, newest first."""
    columns = (_t.c.at, _t.c.who, _t.c.action, _t.c.selection, _t.c["count"], _t.c.ended_at)
    query = select(*columns).order_by(_t.c.id.desc()).limit(limit)
    rows = connection.execute(query if action is None else query.where(_t.c.action == action))
    return [
        AuditEntry(at, who, action, json.loads(selection), number, ended_at)
        for at, who, action, selection, number, ended_at in rows
    ]


def has_endpoint(connection: Connection, name: str) -> bool:
    """Return whether the endpoint exists according to the audit: a command changed it, and none has removed it since."""
    names_it = (_t.c.action.startswith("endpoint "), _t.c.selection.contains(json.dumps(name)))
    query = select(_t.c.action, _t.c.selection).where(*names_it).order_by(_t.c.id.desc())
    for action, text in connection.execute(query):
        changed = json.loads(text)
        if name in (changed.get("endpoint"), *changed.get("added", ()), *changed.get("changed", ())):
            return bool(action != "endpoint remove")
        if name in changed.get("removed", ()):
            break
    return False


def read_entry(connection: Connection, audit_id: int) -> AuditEntry | None:
    """Return one entry of the audit; None if there is no such entry."""
    columns = (_t.c.at, _t.c.who, _t.c.action, _t.c.selection, _t.c["count"], _t.c.ended_at)
    row = connection.execute(select(*columns).where(_t.c.id == audit_id)).first()
    return None if row is None else AuditEntry(*row[:3], json.loads(row[3]), *row[4:])
