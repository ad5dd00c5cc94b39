"""Triage: dead letters in groups that one repair would mend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from resonant.store import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection

_d = schema.deliveries


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one endpoint that failed alike.

    Attributes:
        count: how many.
        first_at, last_at: when the first and the last of them was given up, seconds since the epoch.
        example: the event id of one of them.
    """

    endpoint: str
    reason: str
    category: str
    code: str
    count: int
    first_at: float
    last_at: float
    example: str


def triage(connection: Connection) -> list[Group]:
    """Group the dead letters, the largest group first."""
    key = (_d.c.endpoint, _d.c.reason, _d.c.category, _d.c.code)
    query = (
        select(
            *key,
            func.count(),
            func.min(_d.c.finished_at),
            func.max(_d.c.finished_at),
            func.max(_d.c.event_id),
        )
        .where(schema.is_dead_letter)
        .group_by(*key)
        .order_by(func.count().desc(), *key)
    )
    return [
        Group(endpoint, reason or "", category or "", code or "", count, first_at, last_at, example)
        for endpoint, reason, category, code, count, first_at, last_at, example in connection.execute(query)
    ]
