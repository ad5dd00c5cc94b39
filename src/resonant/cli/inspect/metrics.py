"""``resonant metrics`` and ``prometheus``: statistics as tables and as Prometheus text."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import options
from resonant.cli.command_store import check_file, command_store
from resonant.cli.inspect.export import STDOUT
from resonant.display import counted
from resonant.files import READABLE_BY_ALL, atomic_file

if TYPE_CHECKING:
    from resonant.metrics.report import Table
    from resonant.metrics.statistics import Statistics
    from resonant.settings import Settings

_LONGEST_BAR, _SHORTEST_BAR = 12, 3
_TABLE_GAP = 3  # the widest gap that output.write_table puts between two columns


def metrics(
    window: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="Start of the window: an age (30m, 24h, 7d) or a time; default: RESONANT_METRICS_WINDOW_HOURS.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show success and error rates, latency percentiles, retries and errors, by endpoint, event type and hour.

    The success rate is per event that ended in the window; the error rate is per attempt.
    """
    from resonant.metrics.statistics import read_statistics

    with command_store(exists=True, named=not as_json) as store:
        now = store.now()
        since = options.moment("--window", window, now=now)
        if since is None:
            since = now - store.settings.metrics_window_seconds
        found = store.read(read_statistics, now=now, since=since)
    if as_json:
        output.write(output.to_json(documents.metrics(found)) + "\n")
    else:
        _write_statistics(found)


def prometheus(
    path: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Output file; - is standard output.")
    ] = STDOUT,
    port: Annotated[
        int | None,
        typer.Option(
            "--serve", metavar="PORT", min=1, max=65_535, help="Serve scrapes on 127.0.0.1 until Ctrl-C."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write the metrics as Prometheus text, or serve them over HTTP.

    The output file is replaced atomically, so a node exporter's textfile collector never reads a partial file.
    """
    from resonant.metrics.prometheus import to_text
    from resonant.metrics.scraping import read_registry

    if port is not None and (path != STDOUT or as_json):
        raise options.Misuse("--serve cannot be combined with --output or --json")
    with command_store(exists=True, named=path != STDOUT and not as_json) as store:
        if port is not None:
            check_file(store.settings.store_url)
            _serve(port, store.settings)
            return
        registry = store.run(lambda opened: read_registry(opened, store.settings))
    if path != STDOUT:
        with atomic_file(Path(path), mode=READABLE_BY_ALL) as write:
            write(to_text(registry))
    if as_json:
        output.write(output.to_json(documents.samples(registry)) + "\n")
    elif path == STDOUT:
        output.write(to_text(registry))
    else:
        output.write(
            f"wrote {counted(len(documents.samples(registry)), 'sample')} to {output.visible(path)}\n"
        )


def _serve(port: int, settings: Settings) -> None:

    from resonant.metrics.scraping import scrape_server

    with scrape_server(settings, port) as server:
        output.say(f"serving http://127.0.0.1:{port}/metrics; Ctrl-C stops it")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _write_statistics(found: Statistics) -> None:
    from resonant.metrics.report import summary, tables

    output.write_paragraph(summary(found), indent=2)
    for table in tables(found):
        output.write(f"\n{table.title}\n")
        rows = [tuple(map(output.visible, row)) for row in with_bars(table).rows]
        output.write_table(table.header, rows, only_first_folds=True)


def with_bars(table: Table) -> Table:
    """Add bars on a common scale after the counts, if standard output is a terminal that can show them."""
    console = output.stdout()
    if not (table.bars and console.is_terminal) or console.options.ascii_only:
        return table
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    numbers = {column: max(len(row[column]) for row in table.rows) for column in table.bars}
    needed = sum(widths) + _TABLE_GAP * len(widths)
    for size in range(_LONGEST_BAR, _SHORTEST_BAR - 1, -1):
        wider = (max(0, number + 1 + size - widths[column]) for column, number in numbers.items())
        if needed + sum(wider) <= console.width:
            break
    else:
        return table
    columns = [list(column) for column in zip(*table.rows, strict=True)]
    counts = {column: [int(cell.replace(",", "")) for cell in columns[column]] for column in numbers}
    highest = max(1, *(max(of_column) for of_column in counts.values()))
    for column, number in numbers.items():
        columns[column] = [
            f"{cell:>{number}} {_bar(count / highest, size)}".rstrip()
            for cell, count in zip(columns[column], counts[column], strict=True)
        ]
    return table._replace(rows=tuple(zip(*columns, strict=True)))


def _bar(part: float, size: int) -> str:
    """Draw a fraction as a bar of up to ``size`` characters; a nonzero one gets at least an eighth of a character."""
    eighths = max(round(8 * size * part), int(part > 0))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
