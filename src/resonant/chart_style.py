"""The style of all charts: colours, sizes and axes, and the conversion to SVG.

A chart in an image (``![...](data:image/svg+xml;base64,...)``) follows the theme of the page: in an image, browsers take
``prefers-color-scheme`` from the ``color-scheme`` of the element that shows it. Two themes are needed, since no grey has enough
contrast on both of Prefect's backgrounds. The background is transparent.
"""

import io
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from math import nan
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKDOWN
from matplotlib.patches import StepPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike


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
HOUR = 3600
_FEWEST_HOURS, _MOST_HOUR_TICKS, _HOURS_APART = 6, 9, (1, 2, 3, 6, 12, 24, 48)
# The distances of labels and names from their axes, in points.
_TICK_PAD, _NAME_PAD = 7, 20
_LONGEST_NAME = 28
# Inches of 96 pixels. The width fits Prefect's page, and all charts have the same left edge.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND_ROW = 8.6, 0.95, 0.3, 0.45, 0.58, 0.24
_HANDLE_WIDTH, _LETTER_WIDTH = 0.5, 0.075
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
    "legend.frameon": False,
    "legend.borderpad": 0.0,
    "legend.columnspacing": 1.6,
    "legend.handlelength": 2.2,
}


def hour_axis(axes: Axes, first: float, end: float) -> None:
    """Set the time axis to these hours, in seconds since the epoch, or to a few more."""
    start = min(first, end - _FEWEST_HOURS * HOUR)
    axes.set_xlim(start, end)
    step = next((each for each in _HOURS_APART if (end - start) / HOUR / each < _MOST_HOUR_TICKS), 48) * HOUR
    ticks = {float(at): _moment(at) for at in range(int(-(-start // step) * step), int(end) + 1, step)}
    begin, until = (f"{datetime.fromtimestamp(at, UTC):%d %B %Y %H:%M}" for at in (start, end))
    place_axis(axes, ticks, f"{begin} to {until} UTC")


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):{'%H:%M' if at % 86_400 else '%d %b'}}"


def count_axis(axes: Axes, highest: float) -> None:
    """Set the count axis, from 0 to a little above the highest count."""
    top = 1.08 * max(highest, 1)
    axes.set_ylim(0, top)
    ticks = MaxNLocator(nbins=4, integer=True).tick_values(0, top)
    value_axis(axes, {tick: f"{tick:,.0f}" for tick in ticks if tick <= top})


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
    value_axis(axes, ticks)


def value_axis(axes: Axes, ticks: Mapping[float, str]) -> None:
    """Draw labelled lines across the chart. With ticks of matplotlib, a chart takes twice as long."""
    axes.yaxis.set_visible(False)
    look = {"color": RULE.light, "linewidth": 0.6, "zorder": 0.5, "gid": "values"}
    heights = [height for tick in ticks for height in (tick, tick, nan)]
    add_line(axes, [0, 1, nan] * len(ticks), heights, transform=axes.get_yaxis_transform(), **look)
    for tick, label in ticks.items():
        add_label(axes, tick, label, color=SOFT_TEXT.light)


def add_label(axes: Axes, value: float, label: str, **look: Any) -> None:
    """Write a label left of the chart, at the height of a value."""
    transform, vertical, horizontal = axes.get_yaxis_text1_transform(_TICK_PAD)
    axes.text(0, value, label, transform=transform, va=vertical, ha=horizontal, **look)


def add_line(axes: Axes, xs: ArrayLike, ys: ArrayLike, **look: Any) -> None:
    """Draw a line through points, with gaps at NaN."""
    axes.add_artist(Line2D(xs, ys, solid_capstyle="butt", **look))


def add_steps(axes: Axes, values: ArrayLike, edges: ArrayLike, **look: Any) -> None:
    """Draw values as steps between edges."""
    axes.add_artist(StepPatch(values, edges, **look))


def name_values(axes: Axes, name: str, **look: Any) -> None:
    """Write the name of the value axis, beside room for 9,000,000."""
    look |= {"rotation": 90, "rotation_mode": "anchor", "ha": "center", "va": "bottom"}
    axes.text(-0.11, 0.5, name, transform=axes.transAxes, **look)


def place_axis(axes: Axes, ticks: Mapping[float, str], name: str) -> None:
    """Draw labelled marks below the chart, and the name of the axis."""
    axes.xaxis.set_visible(False)
    look = {"marker": TICKDOWN, "markersize": 3.5, "color": RULE.light, "linestyle": "none", "clip_on": False}
    add_line(axes, list(ticks), [0] * len(ticks), transform=axes.get_xaxis_transform(), gid="places", **look)
    middle = sum(axes.get_xlim()) / 2
    for pad, texts in ((_TICK_PAD, ticks), (_NAME_PAD, {middle: name})):
        transform, vertical, horizontal = axes.get_xaxis_text1_transform(pad)
        for place, label in texts.items():
            text = axes.text(place, 0, label, transform=transform, va=vertical, ha=horizontal)
            text.set_color(SOFT_TEXT.light)


def shortened(name: str) -> str:
    """Return a name, shortened to fit, without characters that XML does not allow."""
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    # XML allows no control characters, not even as entities.
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def add_legend(figure: Figure) -> None:
    """Add the legend below the axes, and room for it."""
    _, labels = figure.axes[0].get_legend_handles_labels()
    fitting = int((_WIDTH - _LEFT) / (_HANDLE_WIDTH + _LETTER_WIDTH * max(map(len, labels))))
    columns = max(1, min(_LEGEND_COLUMNS, fitting))
    place = (_LEFT / _WIDTH, 0)
    figure.legend(loc="lower left", bbox_to_anchor=place, borderaxespad=0.4, ncols=columns)
    room = _LEGEND_ROW * -(-len(labels) // columns)
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
