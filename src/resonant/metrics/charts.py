"""A window's statistics as charts: SVG of a few kilobytes each, the same for the same statistics.

Shown as an image (``![...](data:image/svg+xml;base64,...)``) a chart follows the theme of the page around it: browsers answer
``prefers-color-scheme`` inside an image by the ``color-scheme`` of the element that shows it. Nothing else would do, as no
grey has enough contrast on both of Prefect's backgrounds. The background is transparent.

Never pyplot: it chooses a backend, and keeps every figure in a global. To import this takes half a second: import it where
something is drawn.
"""

from __future__ import annotations

import io
from collections import Counter
from datetime import UTC, datetime
from math import isnan, nan
from typing import TYPE_CHECKING, NamedTuple

from matplotlib import style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, StrMethodFormatter

from resonant.delivery.retry import backoff

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from matplotlib.axes import Axes

    from resonant.delivery.retry import RetryPolicy
    from resonant.metrics.statistics import Delays, Hour, Statistics


class Ink(NamedTuple):
    """A colour in the light and in the dark theme."""

    light: str
    dark: str


# Hues of Okabe and Ito, which the colour-blind can tell apart, made darker or lighter until they stand out. Every light one
# is another, since it is by them that the dark ones are put in.
TEXT = Ink("#33353b", "#d9dbe0")
SOFT_TEXT = Ink("#54575f", "#b3b6bf")
RULE = Ink("#c9cbd1", "#45484f")
BLUE = Ink("#0067a5", "#56b4e9")
VERMILION = Ink("#b04600", "#f08a4b")
PURPLE = Ink("#96407a", "#e09ac6")
GREEN = Ink("#00704f", "#3cc79a")
INKS = (TEXT, SOFT_TEXT, RULE, BLUE, VERMILION, PURPLE, GREEN)

MOST_HOURS = 14 * 24
MOST_ATTEMPTS = 20
_LEGEND_COLUMNS = 4
_FEWEST_HOURS = 6
_MARKED_HOURS = 72
_LONGEST_NAME = 28
# Inches, of 96 pixels. The width is what Prefect's page has room for, and all charts stand on one left edge.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND_ROW = 8.6, 0.95, 0.3, 0.45, 0.58, 0.24
_HOUR = 3600
_SHORTEST = 1e-4  # seconds: a logarithmic axis has no zero
_DAYS_PER_SECOND = 1 / 86_400
_TICKS = {
    **{1e-3 * n: f"{n} ms" for n in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)},
    **{1.0 * n: f"{n} s" for n in (1, 2, 5, 10, 20)},
    **{60.0 * n: f"{n} min" for n in (1, 2, 5, 10, 20)},
    **{3600.0 * n: f"{n} h" for n in (1, 2, 6, 12)},
    **{86_400.0 * n: f"{n} d" for n in (1, 2, 5, 10, 30, 100, 300)},
}
_COARSE_TICKS = (
    "0.1 ms",
    "1 ms",
    "10 ms",
    "100 ms",
    "1 s",
    "10 s",
    "1 min",
    "10 min",
    "1 h",
    "6 h",
    "1 d",
    "10 d",
    "100 d",
)
_MOST_TICKS = 7
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resonant",
    # It comes with matplotlib, and is wider than what browsers will show: so there is room.
    "font.family": ["DejaVu Sans"],
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": TEXT.light,
    "axes.edgecolor": RULE.light,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": SOFT_TEXT.light,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": RULE.light,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.borderpad": 0.0,
    "legend.columnspacing": 1.6,
    "legend.handlelength": 2.2,
    "xtick.color": RULE.light,
    "ytick.color": RULE.light,
    "xtick.labelcolor": SOFT_TEXT.light,
    "ytick.labelcolor": SOFT_TEXT.light,
    "ytick.left": False,
    "figure.facecolor": "none",
}


class _Lane(NamedTuple):
    """Delays at one endpoint that are drawn in one colour, and whether it asked for them."""

    endpoint: str
    asked: bool
    ink: Ink
    marker: str
    delays: list[Delays]


def latency(found: Statistics) -> str:
    """Draw the percentiles of an attempt's time, hour by hour; a quiet hour is a gap."""
    title = "Time of an attempt"
    hours = found.hourly[-MOST_HOURS:]
    if not any(hour.latency.p50 is not None for hour in hours):
        return _nothing(title, "no attempt was answered in this window")
    with _matplotlib():
        figure = _figure(title, height=2.8, legend_rows=1)
        axes = figure.add_subplot()
        middles = [_day(hour.start + _HOUR / 2) for hour in hours]
        values: list[float] = []
        # Other marks too, one around the other: for those who see no colours, and where two percentiles are the same.
        for name, ink, dashes, marker, size, is_filled in (
            ("p50", BLUE, "-", "o", 4.5, True),
            ("p95", PURPLE, (0, (5, 1.6)), "s", 8.0, False),
            ("p99", VERMILION, (0, (1.4, 1.4)), "^", 4.5, True),
        ):
            of_hours: list[float | None] = [getattr(hour.latency, name) for hour in hours]
            drawn = [nan if each is None else max(each, _SHORTEST) for each in of_hours]
            values += [each for each in drawn if not isnan(each)]
            axes.plot(
                middles,
                drawn,
                color=ink.light,
                linestyle=dashes,
                linewidth=2,
                marker=marker,
                markersize=size,
                markerfacecolor=ink.light if is_filled else "none",
                markevery=_marked(of_hours),
                label=name,
                gid=name,
            )
        _log_seconds(axes, values)
        _hour_axis(axes, hours)
        _legend(figure)
        return _svg(figure)


def outcomes(found: Statistics) -> str:
    """Draw how many events were delivered and given up, hour by hour; each has a scale of its own."""
    title = "Events that ended, by hour"
    hours = found.hourly[-MOST_HOURS:]
    if not any(hour.success or hour.dead_letter for hour in hours):
        return _nothing(title, "no event ended in this window")
    with _matplotlib():
        figure = _figure(title, height=3.5)
        panels = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1])
        for axes, name, ink, counts in (
            (panels[0], "delivered", BLUE, [hour.success for hour in hours]),
            (panels[1], "dead letters", VERMILION, [hour.dead_letter for hour in hours]),
        ):
            axes.add_patch(_bars([hour.start for hour in hours], counts, ink, name.replace(" ", "-")))
            _count_axis(axes, max(counts))
            axes.set_ylabel(name, color=ink.light, fontweight="bold")
            axes.yaxis.set_label_coords(-0.75 / (_WIDTH - _LEFT - _RIGHT), 0.5)
        _hour_axis(panels[1], hours)
        panels[0].tick_params(bottom=False, labelbottom=False)
        return _svg(figure)


def dead_letters(found: Statistics) -> str:
    """Draw how many events were given up, by reason."""
    title = "Dead letters, by reason"
    reasons = found.overall.reasons
    if not reasons:
        return _nothing(title, "no event was given up in this window")
    with _matplotlib():
        figure = _figure(title, height=_TOP + 0.15 + 0.32 * len(reasons), bottom=0.15)
        axes = figure.add_subplot()
        bars = axes.barh([_shortened(reason) for reason in reasons], list(reasons.values()), height=0.62)
        for bar, reason in zip(bars, reasons, strict=True):
            bar.set(color=VERMILION.light, gid=f"reason-{reason}")
        axes.bar_label(bars, [f"{count:,}" for count in reasons.values()], padding=5, color=TEXT.light)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(reasons.values()))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False, labelcolor=TEXT.light)
        return _svg(figure)


def retry_delays(delays: Sequence[Delays], policy_name: str, policy: RetryPolicy) -> str:
    """Draw the delays that were decided on against the policy's curve and what its jitter may make of that.

    Args:
        delays: those by this policy; of the endpoints with the most retries the first few are drawn.
        policy_name: for the title.
        policy: what they are drawn against.
    """
    title = f"Delays before a retry, policy “{_shortened(policy_name)}”"
    if not delays:
        return _nothing(title, "nothing was retried in this window")
    lanes = _lanes(delays)
    with _matplotlib():
        figure = _figure(title, height=3.0, legend_rows=-(-(2 + len(lanes)) // _LEGEND_COLUMNS))
        axes = figure.add_subplot()
        numbers = range(1, _last_attempt(delays, policy) + 1)
        curve = [backoff(policy, number) for number in numbers]
        lows, highs = zip(*(_jitter_band(policy, number) for number in numbers), strict=True)
        edges = [number + side for number in numbers for side in (-0.5, 0.5)]
        [band] = axes.fill(
            [*edges, *reversed(edges)],
            [*_twice(lows), *reversed(_twice(highs))],
            color=SOFT_TEXT.light,
            alpha=0.22,
            linewidth=0,
            label="what jitter allows",
        )
        band.set_gid("band")
        if policy.jitter != "decorrelated":  # which draws from the delay before, and has no curve
            [line] = axes.plot(
                numbers,
                curve,
                color=SOFT_TEXT.light,
                linewidth=1.4,
                marker="_",
                markersize=15,
                label="backoff",
            )
            line.set_gid("curve")
        drawn = _draw_delays(axes, lanes)
        _log_seconds(axes, [value for value in (*curve, *lows, *highs, *drawn) if value > 0])
        axes.set_xlim(0.5, max(len(numbers), 3) + 0.5)
        axes.set_xticks(list(numbers))
        axes.set_xlabel("after the n-th attempt of a round")
        _legend(figure)
        return _svg(figure)


def _lanes(delays: Sequence[Delays]) -> list[_Lane]:
    """Return what is drawn side by side: of each endpoint what was drawn, and what it asked for."""
    retries = Counter[str]()
    for each in delays:
        retries[each.endpoint] += each.count
    endpoints = sorted(retries, key=lambda name: (-retries[name], name))
    looks = zip((BLUE, VERMILION, GREEN, PURPLE), "os^v", strict=True)
    lanes = (
        _Lane(
            endpoint,
            asked,
            *look,
            [each for each in delays if (each.endpoint, each.asked) == (endpoint, asked)],
        )
        for endpoint, look in zip(endpoints, looks, strict=False)
        for asked in (False, True)
    )
    return [lane for lane in lanes if lane.delays]


def _draw_delays(axes: Axes, lanes: Sequence[_Lane]) -> list[float]:
    """Draw each from its least to its greatest with a dot at the median; return the ends, for the axis."""
    ends: list[float] = []
    for place, lane in enumerate(lanes):
        shift = 0.64 * ((place + 0.5) / len(lanes) - 0.5)
        shown = [each for each in lane.delays if each.after <= MOST_ATTEMPTS]
        places = [each.after + shift for each in shown]
        lows = [max(each.min, _SHORTEST) for each in shown]
        highs = [max(each.max, _SHORTEST) for each in shown]
        axes.vlines(places, lows, highs, colors=lane.ink.light, linewidth=2.6)
        [medians] = axes.plot(
            places,
            [max(each.median, _SHORTEST) for each in shown],
            color=lane.ink.light,
            marker=lane.marker,
            markersize=5.5,
            markerfacecolor="none" if lane.asked else lane.ink.light,
            linestyle="none",
            label=f"{_shortened(lane.endpoint)}{', Retry-After' if lane.asked else ''}",
        )
        medians.set_gid(f"delays-{place}")
        ends += lows + highs
    return ends


def _jitter_band(policy: RetryPolicy, attempt: int) -> tuple[float, float]:
    """Return between what ``retry.draw_delay`` draws, in seconds."""
    wait = backoff(policy, attempt)
    match policy.jitter:
        case "none":
            return wait, wait
        case "proportional":
            return wait * (1 - policy.spread), wait * (1 + policy.spread)
        case "full":
            return 0.0, wait
        case "equal":
            return wait / 2, wait
        case "decorrelated":
            return min(policy.cap, policy.base), min(policy.cap, policy.base * 3.0 ** min(attempt, 500))


def _last_attempt(delays: Sequence[Delays], policy: RetryPolicy) -> int:
    """Return up to where to draw: what was seen, and one step of the curve beyond it."""
    seen = max(each.after for each in delays)
    return min(max(seen, min(seen + 1, policy.max_attempts - 1)), MOST_ATTEMPTS)


def _twice(values: Sequence[float]) -> list[float]:
    return [max(value, _SHORTEST) for value in values for _ in range(2)]


def _marked(values: Sequence[float | None]) -> list[int]:
    """Return which hours get a dot: all of few, and those between gaps, which a line would not show."""
    known = [value is not None for value in values]
    return [
        n
        for n, is_known in enumerate(known)
        if is_known
        and (len(known) <= _MARKED_HOURS or not any((*known[max(n - 1, 0) : n], *known[n + 1 : n + 2])))
    ]


def _bars(starts: Sequence[int], counts: Sequence[int], ink: Ink, gid: str) -> PathPatch:
    """Return a bar for every hour that has something, all in one path."""
    corners: list[tuple[float, float]] = []
    codes: list[np.uint8] = []
    for start, count in zip(starts, counts, strict=True):
        if count:
            left, right = _day(start + 0.08 * _HOUR), _day(start + 0.92 * _HOUR)
            corners += [(left, 0), (left, count), (right, count), (right, 0), (left, 0)]
            codes += [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]
    path = Path(corners, codes) if corners else Path([(_day(starts[0]), 0)])
    return PathPatch(path, facecolor=ink.light, linewidth=0, gid=gid)


def _hour_axis(axes: Axes, hours: Sequence[Hour]) -> None:
    end = hours[-1].start + _HOUR
    start = min(hours[0].start, end - _FEWEST_HOURS * _HOUR)
    axes.set_xlim(_day(start), _day(end))
    locator = AutoDateLocator(tz=UTC, minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator, tz=UTC, show_offset=False)  # type: ignore[no-untyped-call]
    # The day where the clock says midnight, and otherwise the hour.
    formatter.formats = ["%Y", "%b %Y", "%d %b", "%H:%M", "%H:%M", "%H:%M"]
    formatter.zero_formats = ["", "%Y", "%d %b", "%d %b", "%H:%M", "%H:%M"]
    axes.xaxis.set_major_formatter(formatter)
    first, last = (f"{datetime.fromtimestamp(each, UTC):%d %B %Y %H:%M}" for each in (start, end))
    axes.set_xlabel(f"{first} to {last} UTC")


def _count_axis(axes: Axes, highest: int) -> None:
    axes.set_ylim(0, 1.08 * max(highest, 1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _log_seconds(axes: Axes, values: Sequence[float]) -> None:
    """Make the values' axis logarithmic, over at least a decade, with ticks that people say."""
    low, high = min(values, default=1.0) / 1.35, max(values, default=1.0) * 1.35
    if high < 10 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 10**0.5, middle * 10**0.5
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    if len(ticks) > _MOST_TICKS:
        ticks = [tick for tick in ticks if _TICKS[tick] in _COARSE_TICKS]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda tick, _: _TICKS[min(_TICKS, key=lambda known: abs(known - tick))])
    )


def _day(seconds: float) -> float:
    """Return what matplotlib counts dates in."""
    return seconds * _DAYS_PER_SECOND


def _shortened(name: str) -> str:
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    # XML has no control characters, not even as entities.
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def _legend(figure: Figure) -> None:
    figure.legend(
        loc="lower left", bbox_to_anchor=(_LEFT / _WIDTH, 0), borderaxespad=0.4, ncols=_LEGEND_COLUMNS
    )


def _nothing(title: str, what: str) -> str:
    """Say that there is nothing to draw."""
    with _matplotlib():
        figure = _figure(title, height=_TOP + 0.5, bottom=0.1)
        figure.text(_LEFT / _WIDTH, 0.28, what, color=SOFT_TEXT.light)
        return _svg(figure)


def _matplotlib() -> AbstractContextManager[None]:
    """Draw in our style, whatever the user's own matplotlib says, and leave that as it was."""
    return style.context(["default", _STYLE])


def _figure(title: str, *, height: float, bottom: float = _BOTTOM, legend_rows: int = 0) -> Figure:
    height += legend_rows * _LEGEND_ROW
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasSVG(figure)
    figure.subplots_adjust(
        left=_LEFT / _WIDTH,
        right=1 - _RIGHT / _WIDTH,
        top=1 - _TOP / height,
        bottom=(bottom + legend_rows * _LEGEND_ROW) / height,
        hspace=0.16,
    )
    figure.text(0.01, 1 - 0.22 / height, title, fontsize=11, fontweight="bold", va="center")
    return figure


def _svg(figure: Figure) -> str:
    written = io.StringIO()
    nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(written, format="svg", transparent=True, metadata=nobody)
    _, begin, drawing = written.getvalue().partition("<svg")
    return f"{begin}{drawing.replace('</style>', f'{_css()}</style>', 1)}"


def _css() -> str:
    """Return the rules for the dark theme: what was drawn is light without them."""
    dark = "".join(
        f'[style*="{what}: {ink.light}"]{{{what}:{ink.dark}!important}}'
        for ink in INKS
        for what in ("fill", "stroke")
    )
    return (
        "text{font-family:Inter,system-ui,-apple-system,'Segoe UI',Roboto,sans-serif!important}"
        f"@media (prefers-color-scheme:dark){{{dark}}}"
    )
