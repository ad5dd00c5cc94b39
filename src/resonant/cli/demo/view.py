"""The results of the demo, by the behaviour of its receiver."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resonant import output
from resonant.cli.demo.events import WAYS, WEBHOOK, way_of
from resonant.dispatch.counts import Counts

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.store.views.reads import StoreStatus

HEADER = ("the receiver answers", "events", "delivered", "retried", "dead letters")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store at one moment.

    Attributes:
        status: the balance.
        rows: keyed by the receiver's behaviour, in the order of ``WAYS``.
        attempts: the number of attempts at the receiver so far.
    """

    status: StoreStatus
    rows: dict[str, Counts]
    attempts: int

    @property
    def finished(self) -> int:
        """The number of deliveries that are delivered or given up."""
        return self.status.delivered + self.status.dead_letter

    def __str__(self) -> str:
        return f"{self.status.dead_letter:,} dead letters, {self.status.retrying:,} retrying"


def take_snapshot(connection: Connection) -> Snapshot:
    """Read a snapshot of the store."""
    from sqlalchemy import case, func, select

    from resonant.store import schema
    from resonant.store.views import reads

    d = schema.deliveries.c
    rows = {way: Counts() for way in WAYS}
    attempts = 0
    retried = func.sum(case((d.attempts > 1, 1), else_=0))
    key = (d.event_type, d.status, d.reason, d.code)
    for event_type, status, reason, code, count, again, tries in connection.execute(
        select(*key, func.count(), retried, func.sum(d.attempts)).group_by(*key)
    ):
        way = way_of(event_type)
        row = rows[way]
        row.total += count
        row.retried += again
        if way != WEBHOOK:
            attempts += tries
        if status == "delivered":
            row.delivered += count
        elif status == "dead_letter":
            row.dead_letters[f"{reason}, {code}"] += count
    return Snapshot(reads.status(connection, now=time.time()), rows, attempts)


def write_table(snapshot: Snapshot) -> None:
    """Write the table to standard output; its last row has the totals."""
    rows = [(WAYS[way], row) for way, row in snapshot.rows.items() if row.total]
    total = Counts()
    for _, row in rows:
        total.total += row.total
        total.delivered += row.delivered
        total.retried += row.retried
        total.dead_letters += row.dead_letters
    cells = [_cells(label, row, ", ".join(row.dead_letters)) for label, row in rows]
    output.write_table(HEADER, [*cells, _cells("all", total, "")], only_first_folds=True)


def _cells(label: str, row: Counts, why: str) -> tuple[str, ...]:
    numbers = (row.total, row.delivered, row.retried)
    aligned = (f"{number:>{len(name)},}" for name, number in zip(HEADER[1:], numbers, strict=False))
    return (label, *aligned, f"{row.dead_letters.total():,} {why}".rstrip())
