"""Stands in for ``store.queue.accept`` until that exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resonant.store.queue.enqueue import Conflict, enqueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from resonant.events import Event


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event."""

    event: Event
    duplicate: bool = False
    endpoints: tuple[str, ...] = ()
    problem: Conflict | str | None = None


def accept(
    connection: Connection, wanted: Sequence[tuple[Event, str | None]], *, now: float
) -> list[Outcome]:
    """Store events one by one."""
    return [_accept(connection, event, endpoint, now) for event, endpoint in wanted]


def _accept(connection: Connection, event: Event, endpoint: str | None, now: float) -> Outcome:
    if endpoint is None:
        return Outcome(event, problem="no subscription matches")
    result = enqueue(connection, event, endpoint, now=now, report_conflicts=True)
    if result.conflicts:
        return Outcome(event, problem=result.conflicts[0])
    return Outcome(event, result.accepted == 0, (endpoint,))
