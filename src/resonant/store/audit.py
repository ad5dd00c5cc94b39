"""The audit: one row per operation, written before its first change; each transaction of the operation adds its count."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, insert, select, update

from resonant.display import some
from resonant.events import Clock, rfc3339
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
# Ages in days, in the selection of a purge.
_AGES = ("dead_letters", "delivered")
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
        id: grows with each operation.
    """

    at: float
    who: str
    action: str
    selection: dict[str, object]
    count: int
    ended_at: float | None
    id: int = field(default=0, compare=False)

    @property
    def changes_deliveries(self) -> bool:
        """Whether it is an operation on deliveries, or has changed any."""
        return self.count > 0 or self.action in ("replay", "cancel", "purge", "erase")

    @property
    def took(self) -> str:
        """Its duration. Without an end, the process was killed or still runs; the count is valid either way."""
        return "not ended" if self.ended_at is None else f"{self.ended_at - self.at:.1f} s"

    def restrictions(self) -> Iterator[str]:
        """Describe each restriction of the selection."""
        for name, value in self.selection.items():
            words = name.replace("_", " ")
            if name in ("since", "until") and isinstance(value, int | float):
                yield f"{words} {rfc3339(value)}"
            elif isinstance(value, float):
                yield f"{words} older than {value:g} days" if name in _AGES else f"{words} {value:g}"
            elif value is True:
                yield words
            elif isinstance(value, list) and value:
                yield f"{words} {some([str(each) for each in value])}"
            elif value not in (None, False, {}, []):
                yield f"{words} {value}"


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
    connection: Connection,
    *,
    limit: int | None = None,
    action: AuditAction | None = None,
    who: str | None = None,
    before: int | None = None,
    gate_of: str | None = None,
) -> list[AuditEntry]:
    """Return audit entries, newest first.

    Args:
        limit: at most so many.
        action: only this one.
        who: only by this operator.
        before: only entries with a smaller id.
        gate_of: only pauses and resumptions of this endpoint.
    """
    columns = (_t.c.at, _t.c.who, _t.c.action, _t.c.selection, _t.c["count"], _t.c.ended_at, _t.c.id)
    query = select(*columns).order_by(_t.c.id.desc()).limit(limit)
    for column, value in ((_t.c.action, action), (_t.c.who, who)):
        query = query if value is None else query.where(column == value)
    if before is not None:
        query = query.where(_t.c.id < before)
    if gate_of is not None:
        named = f'"endpoint": {json.dumps(gate_of, ensure_ascii=False)}'
        query = query.where(
            _t.c.action.in_(("pause", "resume")), _t.c.selection.contains(named, autoescape=True)
        )
    return [
        AuditEntry(at, by, action, json.loads(selection), number, ended_at, id_)
        for at, by, action, selection, number, ended_at, id_ in connection.execute(query)
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
