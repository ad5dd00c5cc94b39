"""``resonant status``: show the state of the store, and the next step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from resonant import output
from resonant.cli import filters, name_checks, options
from resonant.cli.command_store import command_store
from resonant.display import ago, counted
from resonant.errors import ResonantError
from resonant.events import rfc3339

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.overview import Overview
    from resonant.settings import Settings
    from resonant.store import Store
    from resonant.store.views.reads import StoreStatus

# Unclaimed deliveries that are overdue by more than this, in seconds, need another emission.
_OVERDUE_SECONDS = 60.0
# Lines on a terminal: for the command and the next prompt; for the table with the balance; above the first endpoint.
_LINES_OF_THE_SHELL, _TABLE_LINES, _HEADER_LINES = 2, 3, 5


class _Paused(NamedTuple):
    """Warnings about deployments by endpoint, or why they are unknown."""

    warnings: dict[str, list[str]]
    problem: str | None = None


def status(
    endpoint: filters.Endpoint = None,
    as_json: options.Json = False,
) -> None:
    """Show the balance and the next step, active alerts and gates, then each endpoint and a forecast of the daily purge.

    The balance: accepted = pending + retrying + delivered + dead letter + purged. The numbers of an endpoint count
    deliveries, except its failed attempts. For deployments, the command asks Prefect, for a few seconds at most, whether they are paused.
    On a terminal, as much is shown as fits its height, and a line says what is omitted.
    """
    from resonant.cli.inspect import overview
    from resonant.overview import read_overview
    from resonant.store.shared.drains import is_sending

    with command_store(exists=True) as opened:
        name = None if endpoint is None else options.endpoint_name(endpoint)
        name_checks.check_filters(opened, name)
        settings, now = opened.settings, opened.now()

        def read(connection: Connection, store: Store) -> tuple[Overview, bool]:
            is_sent = is_sending(connection, now=now, endpoint=name)
            return read_overview(connection, store, settings, now=now, endpoint=name), is_sent

        status, is_sent = opened.run(lambda store: store.read(read, store))
    deployments = sorted(each for each in status.known if each.startswith(options.DEPLOYMENTS))
    paused = _ask_what_is_paused(settings, deployments)
    if as_json:
        document = status.document(None if paused.problem else paused.warnings, now=now)
        output.write(output.to_json(document) + "\n")
    else:
        page = [*overview.page_lines(settings, status.found)]
        _write_status(status, page, paused, now=now, is_sent=is_sent)


def _ask_what_is_paused(settings: Settings, names: list[str]) -> _Paused:
    if not names:
        return _Paused({})
    from resonant.local.paused import ask_what_is_paused

    try:
        return _Paused(ask_what_is_paused(settings, names))
    except ResonantError as error:
        return _Paused({}, str(error))


def _write_status(status: Overview, page: list[str], paused: _Paused, *, now: float, is_sent: bool) -> None:
    """Write the balance and the problems first; on a terminal, write only what fits its height."""
    from resonant.cli.inspect import overview

    found, console = status.found, output.stdout()
    balanced = "yes" if found.balanced else "NO"
    screen = _Screen(console.height - _LINES_OF_THE_SHELL if console.is_terminal else sys.maxsize)
    screen.write(output.visible(f"store: {status.store}"))
    screen.write(f"balanced: {balanced}; {next_step(found, now=now, is_sent=is_sent)}")
    counts = [*_count_lines(found, now=now), *page]
    wrong = [
        *overview.alert_lines(status.raised, status.findings, now=now),
        *overview.gate_lines(found.governed, now=now, sent=status.sent),
        *overview.problem_lines(found.endpoint_problems, now=now),
        *overview.paused_lines(paused.warnings),
        *filter(None, [paused.problem, status.unsafe]),
    ]
    number = counted(len(found.endpoints), "endpoint")
    elsewhere = f"{number}: --json, a taller terminal or `resonant endpoint list` shows them"
    screen.write_some(wrong, keep=_TABLE_LINES + screen.height_of([*counts, elsewhere]))
    _write_balance(found)
    screen.left -= _TABLE_LINES
    for line in counts:
        screen.write(line)
    rows = overview.endpoint_rows(found.endpoints, now=now, on_terminal=console.is_terminal)
    if shown := screen.fitting_rows(rows):
        output.write("\n" if console.is_terminal else "")
        output.write_table(overview.ENDPOINT_COLUMNS, shown)
        if more := len(found.endpoints) - len(shown):
            screen.write(f"{counted(more, 'more endpoint')}: --json lists all")
    elif rows:
        screen.write(elsewhere)
    if status.purges and screen.height_of(lines := list(status.purges.lines(now=now))) <= screen.left:
        for line in lines:
            screen.write(line)


class _Screen:
    """Writes paragraphs, and counts the lines that are left."""

    def __init__(self, left: int) -> None:
        self.left = left

    def write(self, line: str) -> None:
        """Write a paragraph."""
        self.left -= self._height(line)
        output.write_paragraph(line, indent=2)

    def write_some(self, lines: Sequence[str], *, keep: int) -> None:
        """Write the paragraphs that fit above this many free lines, and the number of omitted ones."""
        for index, line in enumerate(lines):
            is_last = index == len(lines) - 1
            if self.left - self._height(line) < keep + (not is_last):
                self.write(f"{len(lines) - index:,} more lines: --json lists all")
                return
            self.write(line)

    def fitting_rows(self, rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Return the first rows of the table of endpoints, as many as fit with its header."""
        is_tall = any("\n" in cell for row in rows for cell in row)
        height = 1 + max((row[0].count("\n") for row in rows), default=0) + is_tall
        fit = (self.left - _HEADER_LINES - 1) // height
        shown = rows[: max(0, fit)]
        self.left -= _HEADER_LINES + len(shown) * height if shown else 0
        return shown

    def height_of(self, lines: Sequence[str]) -> int:
        """Return the number of lines of these paragraphs."""
        return sum(map(self._height, lines))

    def _height(self, line: str) -> int:
        return output.wrapped(line, output.stdout(), indent=2).count("\n") + 1


def _write_balance(found: StoreStatus) -> None:
    names = ("accepted", "pending", "retrying", "delivered", "dead letter", "purged")
    counts = (*(getattr(found, name.replace(" ", "_")) for name in names),)
    output.write_table(
        names, [[f"{count:,}".rjust(len(name)) for name, count in zip(names, counts, strict=True)]]
    )


def _count_lines(found: StoreStatus, *, now: float) -> list[str]:
    categories = ", ".join(f"{count:,} {category}" for category, count in found.by_category.items())
    dead_letters = f"; dead letters: {categories}" if categories else ""
    backlog, new = found.oldest_due
    moments = {
        "oldest due": found.oldest_due_at,
        "oldest due of the last five minutes' events": new if backlog else None,
        "oldest dead letter": found.oldest_dead_at,
    }
    oldest = [f"{what}: {ago(now - at)}, {rfc3339(at)}" for what, at in moments.items() if at is not None]
    return [f"in flight: {found.in_flight:,}{dead_letters}", *oldest]


def next_step(found: StoreStatus, *, now: float, is_sent: bool) -> str:
    """Return advice for the operator, on one line.

    Args:
        found: the status.
        is_sent: whether a run sends deliveries.
    """
    waiting = found.pending + found.retrying
    if not found.balanced:
        accounted_for = waiting + found.delivered + found.dead_letter + found.purged
        return (
            f"{found.accepted:,} were accepted and {accounted_for:,} are accounted for: "
            "keep a copy of the database and report this"
        )
    if not found.accepted:
        return "nothing is stored yet: `resonant emit FILE --endpoint URL` stores and sends"
    steps, oldest_due_at = [], found.oldest_due_at
    if held := found.held:
        steps.append(f"{counted(held, 'delivery is', 'deliveries are')} held, as shown below")
        waiting -= held
        others = (each.oldest_not_held_at for each in found.endpoints)
        oldest_due_at = min((at for at in others if at is not None), default=None)
    if waiting and not is_sent:
        steps.append(
            f"{counted(waiting, 'delivery waits', 'deliveries wait')}, and no run sends them: `resonant emit` sends "
            "what is due, `resonant up` sends all"
        )
    elif waiting > found.in_flight and oldest_due_at and now - oldest_due_at > _OVERDUE_SECONDS:
        steps.append(
            f"{counted(waiting, 'delivery waits', 'deliveries wait')}: `resonant emit` sends them, "
            "`resonant deliveries` lists them"
        )
    elif waiting:
        steps.append(f"{counted(waiting, 'delivery is', 'deliveries are')} in progress")
    if found.dead_letter:
        steps.append(f"`resonant dlq` shows {counted(found.dead_letter, 'dead letter')}")
    return "; ".join(steps) or "nothing to do"
