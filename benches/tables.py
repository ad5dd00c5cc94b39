"""Prints tables and formats their numbers."""

from collections.abc import Container, Iterable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


def print_table(headings: Sequence[str], right: Container[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, with lines on a terminal and without them elsewhere.

    Args:
        headings: one per column.
        right: headings of the right-aligned columns.
        rows: one text per column.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table(box=SIMPLE if console.is_terminal else None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def number(value: float) -> str:
    """Format a value for a table."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
