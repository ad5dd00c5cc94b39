"""Repairs deliveries in a state that no operation produces. Otherwise they would end every run that claims them.

Such a row comes from a defect, or from somebody's SQL: a final delivery that could still be claimed, or an unfinished one
without a due time.
"""

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from resonant.display import counted
from resonant.store import schema
from resonant.store.queue.events import read_events
from resonant.store.queue.locked_rows import change_all

logger = logging.getLogger(__name__)

_d = schema.deliveries
_FINAL = ("delivered", "dead_letter")


def sound(connection: Connection, rows: Sequence[Row[Any]], now: float) -> Sequence[Row[Any]]:
    """Return the rows in a possible state; repair the others, end their leases, and log them.

    A final delivery stays final. An unfinished one becomes due.

    Args:
        connection: in a write transaction.
        rows: whole deliveries, locked by this transaction.
    """
    final = [row for row in rows if row.status in _FINAL]
    undated = [row for row in rows if row.next_attempt_at is None and row.status not in _FINAL]
    if not final and not undated:
        return rows
    for impossible, due_at, was in (
        (final, None, "final, but could be claimed"),
        (undated, now, "unfinished, but had no due time"),
    ):
        if impossible:
            times = {"next_attempt_at": due_at, "available_at": due_at}
            ended = {"lease_owner": None, "lease_token": _d.c.lease_token + 1, "sending": False}
            change_all(connection, [row.id for row in impossible], times | ended)
            number = counted(len(impossible), "delivery", "deliveries")
            first = impossible[0]
            event_id = read_events(connection, [first.event_key])[first.event_key].id
            logger.warning("repaired %s (event %r to %s): %s", number, event_id, first.endpoint, was)
    repaired = {row.id for row in (*final, *undated)}
    return [row for row in rows if row.id not in repaired]
