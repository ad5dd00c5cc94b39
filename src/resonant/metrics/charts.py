"""Charts of a window's statistics: SVGs of a few kilobytes, identical for the same statistics.

pyplot is not used: it chooses a backend, and keeps every figure in a global. This module takes half a second to import, so
import it only to draw.
"""

from __future__ import annotations

from collections import Counter
from math import isnan, nan
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.patches import PathPatch
from matplotlib.path import Path

from resonant.delivery.retry import backoff
from resonant.metrics.chart_style import (
    BLUE,
    GREEN,
    HOUR,
    LEFT,
    LEGEND_COLUMNS,
    PURPLE,
    RIGHT,
    SHORTEST,
    SOFT_TEXT,
    TEXT,
    TOP,
    VERMILION,
    WIDTH,
    Ink,
    add_legend,
    count_axis,
    hour_axis,
    in_days,
    log_seconds,
    new_figure,
    nothing_to_draw,
    our_style,
    shortened,
    to_svg,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from matplotlib.axes import Axes

    from resonant.delivery.retry import RetryPolicy
    from resonant.metrics.statistics import Delays, Statistics

MOST_HOURS = 14 * 24
MOST_ATTEMPTS = 20
_MARKED_HOURS = 72


class _Lane(NamedTuple):
    """Delays of one endpoint in one colour, either all with a Retry-After (``asked``) or all without."""

    endpoint: str
    asked: bool
    ink: Ink
    marker: str
    delays: list[Delays]


def latency(found: Statistics) -> str:
    """Draw the percentiles of attempt durations by hour; an hour without attempts is a gap."""
    title = "Duration of an attempt"
    hours = found.hourly[-MOST_HOURS:]
    if not any(hour.latency.p50 is not None for hour in hours):
        return nothing_to_draw(title, "no attempt was answered in this window")
    with our_style():
        figure = new_figure(title, height=2.8, legend_rows=1)
        axes = figure.add_subplot()
        middles = [in_days(hour.start + HOUR / 2) for hour in hours]
        values: list[float] = []
        # Markers differ in shape, for colour-blind people, and in size, so that equal percentiles stay visible.
        for name, ink, dashes, marker, size, is_filled in (
            ("p50", BLUE, "-", "o", 4.5, True),
            ("p95", PURPLE, (0, (5, 1.6)), "s", 8.0, False),
            ("p99", VERMILION, (0, (1.4, 1.4)), "^", 4.5, True),
        ):
            of_hours: list[float | None] = [getattr(hour.latency, name) for hour in hours]
            drawn = [nan if each is None else max(each, SHORTEST) for each in of_hours]
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
        log_seconds(axes, values)
        hour_axis(axes, hours)
        add_legend(figure)
        return to_svg(figure)


def outcomes(found: Statistics) -> str:
    """Draw the numbers of delivered events and dead letters by hour, each with its own scale."""
    title = "Events that ended, by hour"
    hours = found.hourly[-MOST_HOURS:]
    if not any(hour.success or hour.dead_letter for hour in hours):
        return nothing_to_draw(title, "no event ended in this window")
    with our_style():
        figure = new_figure(title, height=3.5)
        panels = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1])
        for axes, name, ink, counts in (
            (panels[0], "delivered", BLUE, [hour.success for hour in hours]),
            (panels[1], "dead letters", VERMILION, [hour.dead_letter for hour in hours]),
        ):
            axes.add_patch(_bars([hour.start for hour in hours], counts, ink, name.replace(" ", "-")))
            count_axis(axes, max(counts))
            axes.set_ylabel(name, color=ink.light, fontweight="bold")
            axes.yaxis.set_label_coords(-0.75 / (WIDTH - LEFT - RIGHT), 0.5)
        hour_axis(panels[1], hours)
        panels[0].tick_params(bottom=False, labelbottom=False)
        return to_svg(figure)


def dead_letters(found: Statistics) -> str:
    """Draw the number of dead letters by reason."""
    title = "Dead letters, by reason"
    reasons = found.overall.reasons
    if not reasons:
        return nothing_to_draw(title, "no event was given up in this window")
    with our_style():
        figure = new_figure(title, height=TOP + 0.15 + 0.32 * len(reasons), bottom=0.15)
        axes = figure.add_subplot()
        bars = axes.barh([shortened(reason) for reason in reasons], list(reasons.values()), height=0.62)
        for bar, reason in zip(bars, reasons, strict=True):
            bar.set(color=VERMILION.light, gid=f"reason-{reason}")
        axes.bar_label(bars, [f"{count:,}" for count in reasons.values()], padding=5, color=TEXT.light)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(reasons.values()))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False, labelcolor=TEXT.light)
        return to_svg(figure)


def retry_delays(delays: Sequence[Delays], policy_name: str, policy: RetryPolicy) -> str:
    """Draw the delays before retries, with the policy's curve and the range of its jitter.

    Args:
        delays: the delays under this policy; only the endpoints with the most retries are drawn.
        policy_name: for the title.
        policy: the policy whose curve is drawn.
    """
    title = f"Delays before a retry, policy “{shortened(policy_name)}”"
    if not delays:
        return nothing_to_draw(title, "nothing was retried in this window")
    lanes = _lanes(delays)
    with our_style():
        figure = new_figure(title, height=3.0, legend_rows=-(-(2 + len(lanes)) // LEGEND_COLUMNS))
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
            label="range of jitter",
        )
        band.set_gid("band")
        if policy.jitter != "decorrelated":  # it has no curve, since it depends on the previous delay
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
        log_seconds(axes, [value for value in (*curve, *lows, *highs, *drawn) if value > 0])
        axes.set_xlim(0.5, max(len(numbers), 3) + 0.5)
        axes.set_xticks(list(numbers))
        axes.set_xlabel("after the n-th attempt of a round")
        add_legend(figure)
        return to_svg(figure)


def _lanes(delays: Sequence[Delays]) -> list[_Lane]:
    """Return the lanes to draw side by side: for each endpoint, its delays without and with a Retry-After."""
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
    """Draw a line from the lowest to the highest delay, with a dot at the median; return the ends, for the axis."""
    ends: list[float] = []
    for place, lane in enumerate(lanes):
        shift = 0.64 * ((place + 0.5) / len(lanes) - 0.5)
        shown = [each for each in lane.delays if each.after <= MOST_ATTEMPTS]
        places = [each.after + shift for each in shown]
        lows = [max(each.min, SHORTEST) for each in shown]
        highs = [max(each.max, SHORTEST) for each in shown]
        axes.vlines(places, lows, highs, colors=lane.ink.light, linewidth=2.6)
        [medians] = axes.plot(
            places,
            [max(each.median, SHORTEST) for each in shown],
            color=lane.ink.light,
            marker=lane.marker,
            markersize=5.5,
            markerfacecolor="none" if lane.asked else lane.ink.light,
            linestyle="none",
            label=f"{shortened(lane.endpoint)}{', Retry-After' if lane.asked else ''}",
        )
        medians.set_gid(f"delays-{place}")
        ends += lows + highs
    return ends


def _jitter_band(policy: RetryPolicy, attempt: int) -> tuple[float, float]:
    """Return the lowest and highest delay that ``retry.draw_delay`` can return, in seconds."""
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
    """Return the number of the last attempt to draw: one more than the last with delays."""
    seen = max(each.after for each in delays)
    return min(max(seen, min(seen + 1, policy.max_attempts - 1)), MOST_ATTEMPTS)


def _twice(values: Sequence[float]) -> list[float]:
    return [max(value, SHORTEST) for value in values for _ in range(2)]


def _marked(values: Sequence[float | None]) -> list[int]:
    """Return the hours to mark with a dot: all if they are few, otherwise those between gaps, which have no line."""
    known = [value is not None for value in values]
    return [
        n
        for n, is_known in enumerate(known)
        if is_known
        and (len(known) <= _MARKED_HOURS or not any((*known[max(n - 1, 0) : n], *known[n + 1 : n + 2])))
    ]


def _bars(starts: Sequence[int], counts: Sequence[int], ink: Ink, gid: str) -> PathPatch:
    """Return bars for all hours with a count, in one path."""
    corners: list[tuple[float, float]] = []
    codes: list[np.uint8] = []
    for start, count in zip(starts, counts, strict=True):
        if count:
            left, right = in_days(start + 0.08 * HOUR), in_days(start + 0.92 * HOUR)
            corners += [(left, 0), (left, count), (right, count), (right, 0), (left, 0)]
            codes += [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]
    path = Path(corners, codes) if corners else Path([(in_days(starts[0]), 0)])
    return PathPatch(path, facecolor=ink.light, linewidth=0, gid=gid)
