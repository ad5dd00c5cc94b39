"""The output of commands: JSON for programs, text for people.

Data is shown literally: it is never interpreted as markup or terminal control. If standard output is not a terminal,
nothing is wrapped or cut, and each row is a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from resonant.display import visible as visible  # noqa: PLC0414 - for commands
from resonant.display import visible_json
from resonant.errors import ResonantError

if TYPE_CHECKING:
    from rich.console import Console

Document = dict[str, Any]


class PipeClosed(Exception):
    """The reader of standard output closed it, as in ``resonant dlq | head -1``."""


class Interrupted(Exception):
    """A signal ended a command after its pending writes; the message describes its progress."""

    def __init__(self, text: str, number: int = signal.SIGINT) -> None:
        super().__init__(text)
        self.exit_code = 128 + number


def write(text: str) -> None:
    """Write to standard output.

    Raises:
        PipeClosed: its reader closed it.
        ResonantError: writing failed for another reason.
    """
    try:
        sys.stdout.write(text)
    except OSError as error:
        _give_up_stdout(error)


def flush() -> None:
    """Flush standard output; raises what ``write`` raises."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _give_up_stdout(error)


def _give_up_stdout(error: OSError) -> None:
    # Python flushes again at exit, which would raise another error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        raise PipeClosed from None
    raise ResonantError(f"standard output: {error.strerror}") from None


def say(line: str) -> None:
    """Write one line to standard error. A full disk behind it is ignored."""
    with contextlib.suppress(OSError):
        say_on(stderr(), line)


def say_on(console: Console, line: str) -> None:
    """Write one line to a console, wrapped at spaces on a terminal, even while it shows a progress bar."""
    text = wrapped(visible(line), console, indent=2)
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def stdout() -> Console:
    """Return a console on standard output."""
    from rich.console import Console  # noqa: PLC0415

    return Console()


def stderr() -> Console:
    """Return a console on standard error."""
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True)


def to_json(document: object) -> str:
    """Serialise a document on one line, with escapes for control and invisible characters."""
    return visible_json(json.dumps(document, ensure_ascii=False))


def with_raw(document: Document, name: str, raw: bytes) -> str:
    """Serialise a document with an additional member that is already JSON, so that its numbers keep all digits."""
    return f"{to_json(document)[:-1]}, {to_json(name)}: {visible_json(raw.decode())}}}"


def write_result(document: Document, text: str, *, as_json: bool, indent: int = 2) -> None:
    """Write the result of a command: as JSON, or as a paragraph."""
    if as_json:
        write(f"{to_json(document)}\n")
    else:
        write_paragraph(text, indent=indent)


def write_json_array(rows: Iterable[str], write: Callable[[str], None] = write) -> None:
    """Write serialised rows as one JSON array, one row per line, without buffering."""
    separator = "["
    for row in rows:
        write(f"{separator}\n{row}")
        separator = ","
    write("[]\n" if separator == "[" else "\n]\n")


def write_paragraph(text: str, *, indent: int = 0, fits: bool = False) -> None:
    """Write a paragraph on one line; on a terminal, wrap it at spaces and indent later lines.

    With ``fits``, no line is wider than the terminal: longer words are broken, and wide characters count twice.
    """
    write(f"{wrapped(text, stdout(), indent=indent, fits=fits)}\n")


def wrapped(text: str, console: Console, *, indent: int = 0, fits: bool = False) -> str:
    """Return a paragraph as ``write_paragraph`` writes it to a console."""
    if not console.is_terminal:
        return text
    begin = text[: len(text) - len(text.lstrip())]
    if fits:
        from rich.text import Text  # noqa: PLC0415

        lines = Text(text.lstrip()).wrap(console, console.width - max(len(begin), indent), overflow="fold")
        return begin + f"\n{' ' * indent}".join(line.plain.rstrip() for line in lines)
    return textwrap.fill(
        text.lstrip(),
        console.width,
        initial_indent=begin,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        # Never cut a path or an id, so that it can be copied.
        break_long_words=False,
    )


def write_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, only_first_folds: bool = False
) -> None:
    """Write a table in aligned columns, one row per line; on a terminal, fit it to the width.

    Args:
        header: column names.
        rows: cells. On a terminal, a cell may have several lines; the first line of a cell in the
            first or last column is never folded.
        only_first_folds: fold only cells of the first column instead, as in a table of numbers.
    """
    console = stdout()
    if console.is_terminal:
        _write_on_terminal(console, header, rows, only_first_folds=only_first_folds)
        return
    lines = [[name.replace("\n", " ").upper() for name in header], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        write("  ".join(map(str.ljust, line, widths)).rstrip() + "\n")


def _write_on_terminal(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], *, only_first_folds: bool
) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    is_tall = any("\n" in cell for row in rows for cell in row)
    table = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, leading=int(is_tall)
    )
    for index, name in enumerate(header):
        whole = index > 0 if only_first_folds else index in (0, len(header) - 1)
        width = max(_first_lines(rows, index), *map(len, name.split())) if whole else None
        # Rich would narrow the widest column first, below its minimum.
        table.add_column(name, overflow="fold", min_width=width, no_wrap=only_first_folds and whole)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _first_lines(rows: Sequence[Sequence[str]], index: int) -> int:
    return max(len(row[index].partition("\n")[0]) for row in rows)
