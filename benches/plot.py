"""``python -m benches plot FILE [--output FILE]``: draw the comparison that ``--json FILE`` has written."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benches.results import read_standings
from benches.standings import Standing, faulty, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from benches.standings import Visit

# Okabe and Ito's, which the colour-blind can tell apart.
_BLUE, _SKY, _VERMILION, _GREY = "#0072b2", "#9fd0f0", "#d55e00", "#8a8d94"
_ROW_INCHES = 0.42
_BAR = 0.38
_BELOW: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.04), "ncols": 2, "frameon": False}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resonant",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.axisbelow": True,
    "grid.color": "#e3e4e8",
}


def main(arguments: Sequence[str]) -> None:
    """Read the file that is named, and draw it."""
    parser = argparse.ArgumentParser("python -m benches plot", description="Draw a comparison.")
    parser.add_argument("file", type=Path, metavar="FILE", help="what --json has written")
    parser.add_argument("--output", type=Path, metavar="FILE", default=Path("docs/performance.svg"))
    given = parser.parse_args(arguments)
    standings = [each for each in read_standings(given.file) if each.visits]
    if not standings:
        parser.error(f"{given.file} has no comparison: python -m benches comparison --json {given.file}")
    with style.context(["default", _STYLE]):
        figure = _draw(standings)
        # Without the date, so that the same values make the same file.
        FigureCanvasSVG(figure).print_svg(given.output, metadata={"Date": None})  # type: ignore[no-untyped-call]


def _draw(standings: Sequence[Standing]) -> Figure:
    figure = Figure(figsize=(12, 1.3 + _ROW_INCHES * len(standings)), layout="constrained", facecolor="white")
    speed, cpu, latency = figure.subplots(1, 3, sharey=True, width_ratios=(4, 3, 3))
    rows = range(len(standings))
    speed.set_yticks(rows, [each.name for each in standings])
    speed.invert_yaxis()
    for axes in (speed, cpu, latency):
        axes.tick_params(axis="y", length=0)
    _draw_speed(speed, standings)
    _draw_cpu(cpu, standings)
    _draw_latency(latency, standings)
    return figure


def _draw_speed(axes: Axes, standings: Sequence[Standing]) -> None:
    for kind, offset, colour, label in (
        (plain, -_BAR / 2, _BLUE, "no faults"),
        (faulty, _BAR / 2, _SKY, "a fifth fails at first"),
    ):
        for row, each in enumerate(standings):
            if values := each.values(kind(lambda delivered: delivered.events_per_second)):
                middle = statistics.median(values)
                axes.barh(row + offset, middle, _BAR, color=colour, label=label if row == 0 else "")
                axes.hlines(row + offset, min(values), max(values), color="black", linewidth=0.8)
    axes.set_title("events/s: median, and range of the rounds", loc="left")
    axes.legend(**_BELOW)


def _draw_cpu(axes: Axes, standings: Sequence[Standing]) -> None:
    for row, each in enumerate(standings):
        own = _median(each, plain(lambda delivered: delivered.cpu_ms))
        of_services = _median(each, plain(lambda delivered: sum(delivered.services_cpu_ms.values())))
        axes.barh(row, own, 2 * _BAR, color=_VERMILION, label="workers" if row == 0 else "")
        axes.barh(row, of_services, 2 * _BAR, left=own, color=_GREY, label="services" if row == 0 else "")
    axes.set_title("CPU, ms an event, no faults", loc="left")
    axes.legend(**_BELOW)


def _draw_latency(axes: Axes, standings: Sequence[Standing]) -> None:
    bare = standings[0].latency_ms(50)
    for row, each in enumerate(standings):
        p50, p99 = each.latency_ms(50), each.latency_ms(99)
        if row and bare is not None and p50 is not None and p99 is not None:
            axes.hlines(row, p50 - bare, p99 - bare, color=_GREY, linewidth=2)
            axes.plot(p50 - bare, row, "o", color=_BLUE)
            axes.plot(p99 - bare, row, "|", color="black", markersize=10)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_title("added latency, ms: p50 to p99", loc="left")


def _median(standing: Standing, value: Callable[[Visit], float | None]) -> float:
    return statistics.median(standing.values(value))
