"""``python -m benches plot FILE [--output FILE]``: draw the comparison written by ``--json FILE``."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benches.contenders import RAW_LOOP
from benches.results import read_results
from benches.standings import cpu_ms, events_per_second, faulty, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from benches.standings import Standing

# The Okabe-Ito palette, which colour-blind readers can distinguish.
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
    """Read the named file, and draw its comparison."""
    parser = argparse.ArgumentParser("python -m benches plot", description="Draw a comparison.")
    parser.add_argument("file", type=Path, metavar="FILE", help="a file written with --json")
    parser.add_argument("--output", type=Path, metavar="FILE", default=Path("docs/performance.svg"))
    given = parser.parse_args(arguments)
    results = read_results(given.file)
    standings = [each for each in results.standings if each.visits]
    if not standings:
        parser.error(f"{given.file} has no comparison: python -m benches comparison --json {given.file}")
    with style.context(["default", _STYLE]):
        figure = _draw(standings, results.standing_of(RAW_LOOP.name))
        # Without the date, so that the same values produce the same file.
        FigureCanvasSVG(figure).print_svg(given.output, metadata={"Date": None})  # type: ignore[no-untyped-call]


def _draw(standings: Sequence[Standing], raw: Standing | None) -> Figure:
    figure = Figure(figsize=(12, 1.3 + _ROW_INCHES * len(standings)), layout="constrained", facecolor="white")
    speed, cpu, latency = figure.subplots(1, 3, sharey=True, width_ratios=(4, 3, 3))
    rows = range(len(standings))
    speed.set_yticks(rows, [each.name for each in standings])
    speed.invert_yaxis()
    for axes in (speed, cpu, latency):
        axes.tick_params(axis="y", length=0)
    _draw_speed(speed, standings)
    _draw_cpu(cpu, standings)
    if raw:
        _draw_latency(latency, standings, raw)
    return figure


def _draw_speed(axes: Axes, standings: Sequence[Standing]) -> None:
    for kind, offset, colour, label in (
        (plain, -_BAR / 2, _BLUE, "no faults"),
        (faulty, _BAR / 2, _SKY, "a fifth fails at first"),
    ):
        found = {row: each.values(kind, events_per_second) for row, each in enumerate(standings)}
        rounds = {row: values for row, values in found.items() if values}
        places = [row + offset for row in rounds]
        axes.barh(places, list(map(statistics.median, rounds.values())), _BAR, color=colour, label=label)
        lowest, highest = ([of(values) for values in rounds.values()] for of in (min, max))
        axes.hlines(places, lowest, highest, color="black", linewidth=0.8)
    axes.set_title("events/s: median, and range of the rounds", loc="left")
    axes.legend(**_BELOW)


def _draw_cpu(axes: Axes, standings: Sequence[Standing]) -> None:
    rows = range(len(standings))
    own, of_services = (
        [statistics.median(each.values(plain, value)) for each in standings]
        for value in (cpu_ms, lambda delivered: sum(delivered.services_cpu_ms.values()))
    )
    axes.barh(rows, own, 2 * _BAR, color=_VERMILION, label="workers")
    axes.barh(rows, of_services, 2 * _BAR, left=own, color=_GREY, label="services")
    axes.set_title("CPU, ms an event, no faults", loc="left")
    axes.legend(**_BELOW)


def _draw_latency(axes: Axes, standings: Sequence[Standing], raw: Standing) -> None:
    for row, each in enumerate(standings):
        p50, p99 = (each.added_latency_ms(raw, plain, percentile) for percentile in (50, 99))
        if each is not raw and p50 is not None and p99 is not None:
            axes.hlines(row, p50, p99, color=_GREY, linewidth=2)
            axes.plot(p50, row, "o", color=_BLUE)
            axes.plot(p99, row, "|", color="black", markersize=10)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_title("added ms, p50 to p99, no faults", loc="left")
