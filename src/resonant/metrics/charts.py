"""Charts of a window's statistics: SVGs of a few kilobytes, identical for the same statistics.

pyplot is not used: it chooses a backend, and keeps every figure in a global. This module takes half a second to import, so
import it only to draw.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from resonant import chart_style as style
from resonant.delivery.retry import backoff

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from resonant.delivery.retry import RetryPolicy
    from resonant.metrics.statistics import Delays, Statistics

MOST_HOURS = 14 * 24
MOST_ATTEMPTS = 20
_MARKED_HOURS = 72


class _Lane(NamedTuple):
    """Delays of one endpoint in one colour, either all with a Retry-After or all without."""

    label: str
    ink: style.Ink
    marker: str
    fill: str
    delays: list[Delays]


def latency(found: Statistics) -> str:
    """Draw the percentiles of attempt durations by hour; an hour without attempts is a gap."""
    title = "Duration of an attempt"
    hours = found.hourly.tail(MOST_HOURS)
    if hours["latency_p50"].isna().all():
        return style.nothing_to_draw(title, "no attempt was answered in this window")
    with style.our_style():
        figure = style.new_figure(title, height=2.8, legend_rows=1)
        axes = figure.add_subplot()
        middles = (hours.index.to_numpy() + style.HOUR / 2) / style.DAY
        values: list[float] = []
        # Markers differ in shape, for colour-blind people, and in size, so that equal percentiles stay visible.
        for name, ink, dashes, marker, size, is_filled in (
            ("p50", style.BLUE, "-", "o", 4.5, True),
            ("p95", style.PURPLE, (0, (5, 1.6)), "s", 8.0, False),
            ("p99", style.VERMILION, (0, (1.4, 1.4)), "^", 4.5, True),
        ):
            drawn = hours[f"latency_{name}"].clip(lower=style.SHORTEST).to_numpy()
            values += list(drawn)
            [line] = axes.plot(middles, drawn, color=ink.light, linestyle=dashes, label=name, gid=name)
            line.set(linewidth=2, marker=marker, markersize=size, markevery=_marked(drawn))
            line.set_markerfacecolor(ink.light if is_filled else "none")
        style.log_seconds(axes, values)
        style.hour_axis(axes, hours.index[0], hours.index[-1])
        style.add_legend(figure)
        return style.to_svg(figure)


def outcomes(found: Statistics) -> str:
    """Draw the numbers of delivered events and dead letters by hour, each with its own scale."""
    title = "Events that ended, by hour"
    hours = found.hourly.tail(MOST_HOURS)
    if not hours[["success", "dead_letter"]].to_numpy().any():
        return style.nothing_to_draw(title, "no event ended in this window")
    with style.our_style():
        figure = style.new_figure(title, height=3.5)
        panels = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1])
        for axes, name, ink, column in (
            (panels[0], "delivered", style.BLUE, "success"),
            (panels[1], "dead letters", style.VERMILION, "dead_letter"),
        ):
            counts = hours[column].tolist()
            _draw_bars(axes, hours.index, counts, ink, name.replace(" ", "-"))
            style.count_axis(axes, max(counts))
            axes.set_ylabel(name, color=ink.light, fontweight="bold")
            axes.yaxis.set_label_coords(-0.75 / (style.WIDTH - style.LEFT - style.RIGHT), 0.5)
        style.hour_axis(panels[1], hours.index[0], hours.index[-1])
        panels[0].tick_params(bottom=False, labelbottom=False)
        return style.to_svg(figure)


def dead_letters(found: Statistics) -> str:
    """Draw the number of dead letters by reason."""
    title = "Dead letters, by reason"
    reasons = found.count("reason")
    if not reasons:
        return style.nothing_to_draw(title, "no event was given up in this window")
    with style.our_style():
        figure = style.new_figure(title, height=style.TOP + 0.15 + 0.32 * len(reasons), bottom=0.15)
        axes = figure.add_subplot()
        bars = axes.barh([style.shortened(reason) for reason in reasons], list(reasons.values()), height=0.62)
        for bar, reason in zip(bars, reasons, strict=True):
            bar.set(color=style.VERMILION.light, gid=f"reason-{reason}")
        axes.bar_label(bars, [f"{count:,}" for count in reasons.values()], padding=5, color=style.TEXT.light)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(reasons.values()))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False, labelbottom=False, labelcolor=style.TEXT.light)
        return style.to_svg(figure)


def retry_delays(delays: Sequence[Delays], policy_name: str, policy: RetryPolicy) -> str:
    """Draw the delays before retries, with the policy's curve and the range of its jitter.

    Args:
        delays: the delays under this policy; only the endpoints with the most retries are drawn.
        policy_name: for the title.
        policy: the policy whose curve is drawn.
    """
    title = f"Delays before a retry, policy “{style.shortened(policy_name)}”"
    if not delays:
        return style.nothing_to_draw(title, "nothing was retried in this window")
    lanes = _lanes(delays)
    with style.our_style():
        figure = style.new_figure(title, height=3.0, legend_rows=-(-(2 + len(lanes)) // style.LEGEND_COLUMNS))
        axes = figure.add_subplot()
        numbers = range(1, _last_attempt(delays, policy) + 1)
        curve = [backoff(policy, number) for number in numbers]
        bands = np.array([_jitter_band(policy, number) for number in numbers])
        edges = np.array([number + side for number in numbers for side in (-0.5, 0.5)])
        lows, highs = np.repeat(np.maximum(bands, style.SHORTEST), 2, axis=0).T
        outline = (np.append(edges, edges[::-1]), np.append(lows, highs[::-1]))
        axes.fill(
            *outline,
            color=style.SOFT_TEXT.light,
            alpha=0.22,
            linewidth=0,
            label="range of jitter",
            gid="band",
        )
        if policy.jitter != "decorrelated":  # it has no curve, since it depends on the previous delay
            [line] = axes.plot(numbers, curve, color=style.SOFT_TEXT.light, label="backoff", gid="curve")
            line.set(linewidth=1.4, marker="_", markersize=15)
        style.log_seconds(axes, [*curve, *bands.ravel(), *_draw_delays(axes, lanes)])
        axes.set_xlim(0.5, max(len(numbers), 3) + 0.5)
        axes.set_xticks(list(numbers))
        axes.set_xlabel("after the n-th attempt of a round")
        style.add_legend(figure)
        return style.to_svg(figure)


def _lanes(delays: Sequence[Delays]) -> list[_Lane]:
    """Return the lanes to draw side by side: for each endpoint, its delays without and with a Retry-After."""
    retries = Counter[str]()
    for each in delays:
        retries[each.endpoint] += each.count
    endpoints = sorted(retries, key=lambda name: (-retries[name], name))
    lanes = []
    for endpoint, ink, marker in zip(
        endpoints, (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE), "os^v", strict=False
    ):
        for asked, fill, what in ((False, ink.light, ""), (True, "none", ", Retry-After")):
            of_lane = [each for each in delays if (each.endpoint, each.key.asked) == (endpoint, asked)]
            if of_lane:
                lanes.append(_Lane(f"{style.shortened(endpoint)}{what}", ink, marker, fill, of_lane))
    return lanes


def _draw_delays(axes: Axes, lanes: Sequence[_Lane]) -> list[float]:
    """Draw a line from the lowest to the highest delay, with a dot at the median; return the ends, for the axis."""
    ends: list[float] = []
    for place, lane in enumerate(lanes):
        shift = 0.64 * ((place + 0.5) / len(lanes) - 0.5)
        shown = [each for each in lane.delays if each.key.after <= MOST_ATTEMPTS]
        places = [each.key.after + shift for each in shown]
        lows, medians, highs = (
            [max(getattr(each, name), style.SHORTEST) for each in shown]
            for name in ("least", "median", "most")
        )
        axes.vlines(places, lows, highs, colors=lane.ink.light, linewidth=2.6)
        [dots] = axes.plot(places, medians, color=lane.ink.light, label=lane.label, gid=f"delays-{place}")
        dots.set(linestyle="none", marker=lane.marker, markersize=5.5, markerfacecolor=lane.fill)
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
    seen = max(each.key.after for each in delays)
    return min(max(seen, min(seen + 1, policy.max_attempts - 1)), MOST_ATTEMPTS)


def _marked(drawn: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the hours to mark with a dot: all if they are few, otherwise those between gaps, which have no line."""
    known = np.pad(~np.isnan(drawn), 1)
    is_near_another = (known[:-2] | known[2:]) & (len(drawn) > _MARKED_HOURS)
    return np.flatnonzero(known[1:-1] & ~is_near_another)


def _draw_bars(axes: Axes, starts: Iterable[int], counts: Sequence[int], ink: style.Ink, gid: str) -> None:
    """Draw bars for all hours with a count, in one path."""
    edges = [(start + part * style.HOUR) / style.DAY for start in starts for part in (0.08, 0.92)]
    heights = [height for count in counts for height in (count or np.nan, np.nan)][:-1]
    heights[0] = counts[0]  # an empty path would not be drawn
    axes.stairs(heights, edges, baseline=0, fill=True, color=ink.light, linewidth=0, gid=gid)
