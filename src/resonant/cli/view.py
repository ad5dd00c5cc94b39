"""A list of rows: cards on a terminal, a table elsewhere, and an array with ``--json``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

import typer

from resonant import output
from resonant.display import visible

if TYPE_CHECKING:
    from resonant.cli.command_store import CommandStore
    from resonant.output import Document
    from resonant.store.views.dead_letters import Position
    from resonant.store.views.selection import Selection

Row = TypeVar("Row")

DEFAULT_LIMIT = 50
Limit = Annotated[int | None, typer.Option(metavar="N", min=0, help="Maximum rows, 50 by default; 0: all.")]
# A row takes at least this many lines on a terminal.
_FEWEST_LINES = 4
# A list reads from the store row by row, and counts no further than this.
COUNTED = 10_000
# Tables are aligned in memory, and there may be millions of rows.
_TABLE_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class View(Generic[Row]):
    """How to show rows; text need not be safe for a terminal.

    Attributes:
        document: returns a row as JSON.
        columns: return a row's cells, keyed by the name of the column.
        cards: yield the lines of each card, for a row or for several.
        indent: of wrapped lines, except those of a card's first line.
        fits: whether words of a card are broken that are longer than a line, instead of left whole to be copied.
        identity: returns the id and the source of a row's event; a table shows the source if rows with the same id differ in it.
    """

    document: Callable[[Row], Document]
    columns: Mapping[str, Callable[[Row], object]]
    cards: Callable[[Iterator[Row]], Iterable[Iterable[str | None]]]
    indent: int = 4
    fits: bool = False
    identity: Callable[[Row], tuple[str, str]] | None = None

    def write(self, rows: Iterable[Row], *, as_json: bool = False) -> Seen[Row]:
        """Write the rows as they come, and return which ones there were."""
        seen = Seen(rows)
        if as_json:
            output.write_json_array(output.to_json(self.document(row)) for row in seen)
        elif output.stdout().is_terminal:
            for first, *others in self.cards(seen):
                output.write_paragraph(visible(first or ""), indent=2, fits=self.fits)
                for line in filter(None, others):
                    output.write_paragraph(f"  {visible(line)}", indent=self.indent, fits=self.fits)
                output.write("\n")
        else:
            while page := list(islice(seen, _TABLE_ROWS)):
                columns = self._columns_of(page)
                cells = [[visible(str(cell(row))) for cell in columns.values()] for row in page]
                output.write_table(tuple(columns), cells)
        return seen

    def _columns_of(self, page: Sequence[Row]) -> Mapping[str, Callable[[Row], object]]:
        if (identity := self.identity) is None:
            return self.columns
        identities = {identity(row) for row in page}
        if len(identities) == len({event_id for event_id, _ in identities}):
            return self.columns
        (first, id_of), *others = self.columns.items()
        return dict([(first, id_of), ("source", lambda row: identity(row)[1]), *others])


class Seen(Generic[Row]):
    """An iterator that keeps the number, the first and the last of the rows that it has yielded."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = iter(rows)
        self.count = 0
        self.first: Row | None = None
        self.last: Row | None = None

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        self.last = next(self._rows)
        self.count += 1
        if self.count == 1:
            self.first = self.last
        return self.last


def fills_a_screen(store: CommandStore, count: Callable[..., int], *what: object, **how: object) -> bool:
    """Return whether standard output is a terminal that is too small for ``count()`` rows."""
    console = output.stdout()
    if not console.is_terminal:
        return False
    fit = console.height // _FEWEST_LINES
    return store.read(count, *what, at_most=fit + 1, **how) > fit


def write_groups(groups: Sequence[Row], shown_as: View[Row], *, limit: int, none: str, as_json: bool) -> bool:
    """Write groups; say on standard error if there are more than ``limit`` (0: no limit). Without groups, say ``none``.

    Returns:
        Whether it has written some, and these are all.
    """
    shown = groups[: limit or None]
    shown_as.write(shown, as_json=as_json)
    if len(shown) < len(groups):
        output.say(f"showing {len(shown):,} of {len(groups):,} groups: --limit 0 shows all")
    elif not groups:
        output.say(none)
    return 0 < len(shown) == len(groups)


def say_page(shown: int, total: int, last: Position | None) -> None:
    """Say on standard error how much of a list this page shows.

    Args:
        shown: the number of rows of this page.
        total: the number of all rows, counted up to ``COUNTED``.
        last: the last row of this page, for ``--after``; None if no page follows.
    """
    more = f"--after {last.place} shows the next, --limit 0 all" if last else "these are the last"
    output.say(f"showing {shown:,} of {total:,}{' or more' if total >= COUNTED else ''}: {more}")


def no_rows(what: str, selection: Selection) -> str:
    """Return a message that nothing is selected."""
    return f"no {what}" if selection.is_empty else f"no {what} match"
