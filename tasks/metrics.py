"""The steps of the metrics flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefect.artifacts import acreate_markdown_artifact
from prefect.logging import get_run_logger

from resonant.cli.metrics import READABLE_BY_ALL
from resonant.errors import ResonantError
from resonant.exposition import registry_of, to_text
from resonant.files import atomic_file
from resonant.report import summary, tables
from resonant.settings import load_settings
from resonant.stats import Statistics, statistics
from resonant.store.measuring import Totals, measure

if TYPE_CHECKING:
    from resonant.report import Table
    from resonant.store import Store

METRICS_ARTIFACT = "metrics"
_SECONDS_AN_HOUR = 3600


async def measure_store(store: Store, *, window_hours: float | None) -> tuple[Totals, Statistics]:
    """Read counters and gauges, and compute the window's statistics, all of one snapshot.

    Args:
        store: open.
        window_hours: how far to look back; None is what the settings say.
    """
    hours = load_settings().metrics_window_hours if window_hours is None else window_hours
    now = store.clock()
    since = now - hours * _SECONDS_AN_HOUR
    totals, window = await store.read(measure, now=now, since=since)
    return totals, statistics(window.attempts, window.deliveries, since=since, until=now)


def write_textfile(totals: Totals, found: Statistics, textfile: str | None) -> Path:
    """Write Prometheus text in the place of the last one, in one step; return where.

    Args:
        totals: counters and gauges.
        found: the window's statistics.
        textfile: a file on the worker's machine; None is what the settings say.

    Raises:
        ResonantError: it cannot be written; the last one is untouched.
    """
    path = load_settings().textfile if textfile is None else Path(textfile).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResonantError(f"{path.parent}: {error.strerror}") from None
    with atomic_file(path, mode=READABLE_BY_ALL) as write:
        write(to_text(registry_of(totals, found)))
    get_run_logger().info("Prometheus text written to %s", path)
    return path


async def show_statistics(found: Statistics) -> None:
    """Write the statistics as an artifact, so that their history shows in the UI."""
    await acreate_markdown_artifact(
        key=METRICS_ARTIFACT,
        markdown="\n\n".join([f"{summary(found)}.", *map(_markdown, tables(found))]),
        description="What became of events, how often attempts failed, how long both took.",
    )


def _markdown(table: Table) -> str:
    lines = [table.header, *(("---",) * len(table.header),), *table.rows]
    return "\n".join([f"### {table.title}\n", *map(_markdown_row, lines)])


def _markdown_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
