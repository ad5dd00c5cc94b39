"""The progress display of the demo: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resonant import output
from resonant.cli.demo_events import WAYS, way_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType
    from rich.table import Table
    from sqlalchemy import Connection

    from resonant.store.views.reads import StoreStatus

HEADER = ("the receiver answers", "events", "delivered", "retried", "dead letters")
_LATEST_FAILURES = 6
_LINE_SECONDS = 5.0
_BAR_WIDTH = 60


@dataclass(slots=True)
class Row:
    """The number of deliveries by outcome, for one behaviour of the receiver."""

    events: int = 0
    delivered: int = 0
    retried: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store at one moment.

    Attributes:
        status: the balance.
        rows: keyed by the receiver's behaviour, in the order of ``WAYS``.
        attempts: the number of attempts so far.
        latest_failures: descriptions of the latest failed attempts, newest first.
    """

    status: StoreStatus
    rows: dict[str, Row]
    attempts: int
    latest_failures: list[str]

    @property
    def finished(self) -> int:
        """The number of deliveries that are delivered or given up."""
        return self.status.delivered + self.status.dead_letter

    def __str__(self) -> str:
        status = self.status
        return (
            f"{status.delivered:,} delivered, {status.retrying:,} retrying, {status.pending:,} waiting, "
            f"{status.dead_letter:,} dead letters"
        )


def take_snapshot(connection: Connection) -> Snapshot:
    """Read a snapshot of the store."""
    from sqlalchemy import case, func, select

    from resonant.store import schema
    from resonant.store.views import reads

    d, a = schema.deliveries.c, schema.attempts.c
    rows = {way: Row() for way in WAYS}
    attempts = 0
    retried = func.sum(case((d.attempts > 1, 1), else_=0))
    key = (d.event_type, d.status, d.reason, d.code)
    for event_type, status, reason, code, count, again, tries in connection.execute(
        select(*key, func.count(), retried, func.sum(d.attempts)).group_by(*key)
    ):
        row = rows[way_of(event_type)]
        row.events += count
        row.retried += again
        attempts += tries
        if status == "delivered":
            row.delivered += count
        elif status == "dead_letter":
            row.dead_letters[f"{reason}, {code}"] += count
    latest = (
        select(d.event_type, a.number, a.category, a.code, a.decision, a.delay)
        .join(schema.deliveries, a.delivery_id == d.id)
        .where(a.result == "failed")
        .order_by(a.id.desc())
        .limit(_LATEST_FAILURES)
    )
    return Snapshot(
        status=reads.status(connection, now=time.time()),
        rows=rows,
        attempts=attempts,
        latest_failures=[
            f"{event_type:<20} attempt {number}  {category} {code}; {_next_step(decision, delay)}"
            for event_type, number, category, code, decision, delay in connection.execute(latest)
        ],
    )


def _rows(snapshot: Snapshot) -> list[tuple[str, ...]]:
    """Return the cells of the table; the last row has the totals."""
    rows = [(WAYS[way], row) for way, row in snapshot.rows.items() if row.events]
    total = Row()
    for _, row in rows:
        total.events += row.events
        total.delivered += row.delivered
        total.retried += row.retried
        total.dead_letters += row.dead_letters
    return [
        *(_cells(label, row, ", ".join(row.dead_letters)) for label, row in rows),
        _cells("all", total, ""),
    ]


def _cells(label: str, row: Row, why: str) -> tuple[str, ...]:
    numbers = (row.events, row.delivered, row.retried)
    aligned = (f"{number:>{len(name)},}" for name, number in zip(HEADER[1:], numbers, strict=False))
    return (label, *aligned, f"{row.dead_letters.total():,} {why}".rstrip())


def _next_step(decision: str | None, delay: float | None) -> str:
    return f"retry in {delay:.1f} s" if decision == "retry" and delay is not None else "given up"


@contextlib.contextmanager
def shown_live(title: str) -> Iterator[Callable[[Snapshot], None]]:
    """Yield a function that shows a snapshot: in place on a terminal, as a line every few seconds elsewhere."""
    console = output.stderr()
    if not console.is_terminal:
        yield _lines()
        return
    from rich.live import Live

    started_at = time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda snapshot: live.update(
            _picture(f"{title}  {time.monotonic() - started_at:3.0f} s", snapshot), refresh=True
        )


def _lines() -> Callable[[Snapshot], None]:
    next_at = time.monotonic() + _LINE_SECONDS

    def show(snapshot: Snapshot) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            output.say(str(snapshot))
            next_at = time.monotonic() + _LINE_SECONDS

    return show


def write_table(snapshot: Snapshot) -> None:
    """Write the table to standard output."""
    console = output.stdout()
    if console.is_terminal:
        console.print(_table(snapshot))
    else:
        output.write_table(HEADER, _rows(snapshot))


def _picture(title: str, snapshot: Snapshot) -> RenderableType:
    from rich.align import Align
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    return Group(
        Text(title, style="bold"),
        Align.left(ProgressBar(snapshot.status.accepted or 1, snapshot.finished, width=_BAR_WIDTH)),
        Text(str(snapshot)),
        _table(snapshot),
        Text("latest failures", style="bold"),
        *(Text(line, no_wrap=True, overflow="ellipsis", style="red") for line in snapshot.latest_failures),
    )


def _table(snapshot: Snapshot) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(*HEADER, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for cells in _rows(snapshot):
        table.add_row(*cells)
    return table
