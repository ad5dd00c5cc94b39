"""``resonant metrics`` and ``prometheus``: statistics as tables and as Prometheus text."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import output
from resonant.cli import options
from resonant.cli.export import STDOUT
from resonant.events import rfc3339
from resonant.files import READABLE_BY_ALL, atomic_file

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from resonant.metrics.percentiles import Spread
    from resonant.metrics.report import Table
    from resonant.metrics.statistics import Events, Hour, Statistics
    from resonant.settings import Settings

_LONGEST_BAR, _SHORTEST_BAR = 12, 3
_TABLE_GAP = 3  # the widest gap that output.write_table puts between two columns


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("metrics", rich_help_panel=options.LOOK, epilog="Example: resonant metrics --window 7d")(
        metrics
    )
    app.command(
        "prometheus",
        rich_help_panel=options.LOOK,
        epilog="Example: resonant prometheus --output metrics.prom",
    )(prometheus)


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
    from resonant.cli.running import run_with_store
    from resonant.metrics.report import NOT_COUNTED
    from resonant.metrics.statistics import read_statistics
    from resonant.settings import load_settings

    settings, now = load_settings(), time.time()
    since = options.moment("--window", window, now=now)
    if since is None:
        since = now - settings.metrics_window_seconds
    if not settings.rollups:
        output.say(NOT_COUNTED)
    found = run_with_store(lambda store: store.read(read_statistics, now=now, since=since), settings)
    if as_json:
        output.write(output.to_json(metrics_document(found)) + "\n")
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
    from resonant.cli.running import run_with_store
    from resonant.metrics.prometheus import to_text
    from resonant.metrics.report import NOT_COUNTED
    from resonant.metrics.scraping import read_registry
    from resonant.settings import load_settings

    if port is not None and (path != STDOUT or as_json):
        raise options.Misuse("--serve cannot be combined with --output or --json")
    settings = load_settings()
    if not settings.rollups:
        output.say(NOT_COUNTED)
    if port is not None:
        _serve(port, settings)
        return
    registry = run_with_store(lambda store: read_registry(store, settings), settings)
    if path != STDOUT:
        with atomic_file(Path(path), mode=READABLE_BY_ALL) as write:
            write(to_text(registry))
    if as_json:
        output.write(output.to_json(_samples(registry)) + "\n")
    elif path == STDOUT:
        output.write(to_text(registry))
    else:
        output.write(f"wrote {output.counted(len(_samples(registry)), 'sample')} to {output.visible(path)}\n")


def _serve(port: int, settings: Settings) -> None:
    from contextlib import suppress

    from resonant.metrics.scraping import scrape_server

    with scrape_server(settings, port) as server:
        output.say(f"serving http://127.0.0.1:{port}/metrics; Ctrl-C stops it")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def metrics_document(found: Statistics) -> output.Document:
    """Return the object of ``resonant metrics --json``: rates are fractions; missing figures are null."""
    from resonant.metrics.report import by_most_events

    figures = found.overall
    return {
        "events": _events_document(figures.events),
        "error_categories": figures.error_categories,
        "error_types": figures.error_types,
        "latency_ms": _milliseconds(figures.latency),
        "end_to_end_ms": _milliseconds(figures.end_to_end),
        "first_attempt_ms": _milliseconds(figures.first_attempt),
        "retries": asdict(figures.retries),
        "hourly": [_hour_document(hour) for hour in found.hourly],
        "by_event_type": {
            name: {
                "events": _events_document(of_type.events),
                "attempts": asdict(of_type.attempts),
                "error_categories": of_type.error_categories,
                "latency_ms": _milliseconds(of_type.latency),
                "retries": asdict(of_type.retries),
            }
            for name, of_type in by_most_events(found.by_event_type)
        },
    }


def _events_document(events: Events) -> output.Document:
    return {
        "total": events.total,
        "success": events.success,
        "failed": events.failed,
        "dead_letter": events.dead_letter,
        "success_rate": events.success_rate,
    }


def _hour_document(hour: Hour) -> output.Document:
    events, attempts = hour.figures.events, hour.figures.attempts
    return {
        "hour": rfc3339(hour.start),
        "success": events.success,
        "dead_letter": events.dead_letter,
        "attempts": attempts.total,
        "failed_attempts": attempts.failed,
        "latency_ms": _milliseconds(hour.figures.latency),
    }


def _milliseconds(spread: Spread) -> output.Document:
    return {
        name: None if seconds is None else round(1000 * seconds, 3)
        for name, seconds in asdict(spread).items()
    }


def _samples(registry: CollectorRegistry) -> list[output.Document]:
    return [
        {"name": sample.name, "labels": sample.labels, "value": sample.value}
        for family in registry.collect()
        for sample in family.samples
    ]


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
