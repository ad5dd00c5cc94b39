"""The style of all charts: colours, sizes and axes, and the conversion to SVG.

A chart in an image (``![...](data:image/svg+xml;base64,...)``) follows the theme of the page: in an image, browsers take
``prefers-color-scheme`` from the ``color-scheme`` of the element that shows it. Two themes are needed, since no grey has enough
contrast on both of Prefect's backgrounds. The background is transparent.
"""

from __future__ import annotations

import io
import re
from datetime import UTC
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes


class Ink(NamedTuple):
    """A colour in the light and in the dark theme."""

    light: str
    dark: str


# Hues of Okabe and Ito, which colour-blind people can distinguish, darkened or lightened for contrast. The light colours must
# all differ, since the SVG maps them to the dark ones.
TEXT = Ink("#33353b", "#d9dbe0")
SOFT_TEXT = Ink("#54575f", "#b3b6bf")
RULE = Ink("#c9cbd1", "#45484f")
BLUE = Ink("#0067a5", "#56b4e9")
VERMILION = Ink("#b04600", "#f08a4b")
PURPLE = Ink("#96407a", "#e09ac6")
GREEN = Ink("#00704f", "#3cc79a")
INKS = (TEXT, SOFT_TEXT, RULE, BLUE, VERMILION, PURPLE, GREEN)

_LEGEND_COLUMNS = 4
_FEWEST_HOURS = np.timedelta64(6, "h")
_LONGEST_NAME = 28
# Inches of 96 pixels. The width fits Prefect's page, and all charts have the same left edge.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND_ROW = 8.6, 0.95, 0.3, 0.45, 0.58, 0.24
SHORTEST = 1e-4  # seconds: a logarithmic axis has no zero
_TICKS = {
    size * n: f"{n} {unit}"
    for size, unit, numbers in (
        (1e-3, "ms", (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)),
        (1, "s", (1, 2, 5, 10, 20)),
        (60, "min", (1, 2, 5, 10, 20)),
        (3600, "h", (1, 2, 6, 12)),
        (86_400, "d", (1, 2, 5, 10, 30, 100, 300)),
    )
    for n in numbers
}
# Matches 0.1, 1, 10 and 100 of any unit, and 6 h.
_COARSE_TICK = re.compile(r"0\.1 |10* |6 h")
_MOST_TICKS = 7
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resonant",
    # Included in matplotlib, and wider than browser fonts, so labels fit.
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": TEXT.light,
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), SOFT_TEXT.light),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), RULE.light),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.left", "axes.spines.right", "axes.spines.top", "ytick.left"), False),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.borderpad": 0.0,
    "legend.columnspacing": 1.6,
    "legend.handlelength": 2.2,
}


def hour_axis(axes: Axes, first: np.datetime64, end: np.datetime64) -> None:
    """Set the time axis to these hours, or a few more."""
    start = min(first, end - _FEWEST_HOURS)
    axes.set_xlim(date2num(start), date2num(end))  # type: ignore[no-untyped-call]
    locator = AutoDateLocator(tz=UTC, minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC, show_offset=False))  # type: ignore[no-untyped-call]
    axes.set_xlabel(f"{start.item():%d %B %Y %H:%M} to {end.item():%d %B %Y %H:%M} UTC")


def count_axis(axes: Axes, highest: float) -> None:
    """Set the count axis, from 0 to a little above the highest count."""
    axes.set_ylim(0, 1.08 * max(highest, 1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def log_seconds(axes: Axes, values: Iterable[float]) -> None:
    """Make the value axis logarithmic, over at least a decade, with round ticks such as 2 min; ignore zero and NaN."""
    known = [each for each in values if each > 0]
    low, high = min(known, default=1.0) / 1.35, max(known, default=1.0) * 1.35
    if high < 10 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 10**0.5, middle * 10**0.5
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = {tick: label for tick, label in _TICKS.items() if low <= tick <= high}
    if len(ticks) > _MOST_TICKS:
        ticks = {tick: label for tick, label in ticks.items() if _COARSE_TICK.match(label)}
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()


def shortened(name: str) -> str:
    """Return a name, shortened to fit, without characters that XML does not allow."""
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    # XML allows no control characters, not even as entities.
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def add_legend(figure: Figure) -> None:
    """Add the legend below the axes, and room for it."""
    place = (_LEFT / _WIDTH, 0)
    legend = figure.legend(loc="lower left", bbox_to_anchor=place, borderaxespad=0.4, ncols=_LEGEND_COLUMNS)
    room = _LEGEND_ROW * -(-len(legend.get_texts()) // _LEGEND_COLUMNS)
    figure.set_figheight(figure.get_figheight() + room)
    _set_margins(figure, _BOTTOM + room)


def our_style() -> AbstractContextManager[None]:
    """Apply this style in the block, independent of the user's matplotlib settings."""
    return style.context(["default", _STYLE])


def new_figure(title: str, *, height: float, bottom: float = _BOTTOM) -> Figure:
    """Return an empty figure with a title; its height and bottom margin are in inches, without a legend."""
    figure = Figure(figsize=(_WIDTH, height))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    _set_margins(figure, bottom)
    return figure


def _set_margins(figure: Figure, bottom: float) -> None:
    height = figure.get_figheight()
    figure.subplots_adjust(_LEFT / _WIDTH, bottom / height, 1 - _RIGHT / _WIDTH, 1 - _TOP / height)


def to_svg(figure: Figure) -> str:
    """Return the figure as SVG that follows the theme of the page."""
    written = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(written, format="svg", transparent=True, metadata=no_metadata)
    _, begin, drawing = written.getvalue().partition("<svg")
    return f"{begin}{drawing.replace('</style>', f'{_css()}</style>', 1)}"


def _css() -> str:
    """Return the CSS rules for the dark theme; without them, the chart is light."""
    dark = "".join(
        f'[style*="{what}: {ink.light}"]{{{what}:{ink.dark}!important}}'
        for ink in INKS
        for what in ("fill", "stroke")
    )
    return (
        "text{font-family:Inter,system-ui,-apple-system,'Segoe UI',Roboto,sans-serif!important}"
        f"@media (prefers-color-scheme:dark){{{dark}}}"
    )
