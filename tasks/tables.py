"""Tables in Markdown artifacts, with untrusted text in their cells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from resonant.display import markdown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FIGURE = re.compile(r"[0-9 ,.:%TZ-]*")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown that shows every cell literally."""
    return "\n".join(map(_row, [header, ("---",) * len(header), *rows]))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(cell: str) -> str:
    # Markdown splits rows at bars even within code, and the text may end in a backslash, so `\|` is not safe.
    return cell if _FIGURE.fullmatch(cell) else markdown(cell).replace("|", r"\x7c")
