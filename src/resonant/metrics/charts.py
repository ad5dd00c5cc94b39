"""Charts of a window's statistics: SVGs of a few kilobytes, identical for the same statistics; None without data.

pyplot is not used: it chooses a backend, and keeps every figure in a global. Shapes are added as artists: methods such as
`stairs` also compute limits of the axes, which takes longer than drawing. This module takes half a second to import, so
import it only to draw.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import nan
from random import Random
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from pandas import DataFrame

from resonant import chart_style as style
from resonant.delivery.retry import RetryPolicy, backoff, draw_delay
from resonant.metrics.statistics import Statistics

MOST_HOURS = 14 * 24
MOST_ATTEMPTS = 20


def latency(found: Statistics) -> str | None:
    """Draw the percentiles of attempt durations by hour; an hour without attempts is a gap."""
    hours = found.hourly.tail(MOST_HOURS)
    drawn = hours[["latency_p50", "latency_p95", "latency_p99"]].clip(lower=style.SHORTEST)
    if drawn.isna().to_numpy().all():
        return None
    with style.our_style():
        figure = style.new_figure("Duration of an attempt", height=2.8)
        axes = figure.add_subplot()
        edges = _edges(hours)
        # Dashes differ, for colour-blind people, and so that equal percentiles stay visible.
        for column, ink, dashes in (
            ("latency_p50", style.BLUE, "-"),
            ("latency_p95", style.PURPLE, (0, (5, 1.6))),
            ("latency_p99", style.VERMILION, (0, (1.4, 1.4))),
        ):
            name = column.removeprefix("latency_")
            look = {
                "color": ink.light,
                "linestyle": dashes,
                "linewidth": 2,
                "label": name,
                "gid": name,
            }
            style.add_steps(axes, drawn[column], edges, baseline=None, fill=False, **look)
        style.log_seconds(axes, drawn.to_numpy().ravel())
        style.hour_axis(axes, edges[0], edges[-1])
        style.add_legend(figure)
        return style.to_svg(figure)


def outcomes(found: Statistics) -> str | None:
    """Draw the numbers of delivered events and dead letters by hour, each with its own scale."""
    hours = found.hourly.tail(MOST_HOURS)
    if not hours[["success", "dead_letter"]].to_numpy().any():
        return None
    with style.our_style():
        figure = style.new_figure("Events that ended, by hour", height=3.5)
        panels = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1])
        edges = _edges(hours)
        for axes, name, ink, column in (
            (panels[0], "delivered", style.BLUE, "success"),
            (panels[1], "dead letters", style.VERMILION, "dead_letter"),
        ):
            look = {"color": ink.light, "linewidth": 0, "gid": column}
            style.add_steps(axes, hours[column], edges, **look)
            style.count_axis(axes, hours[column].max())
            style.name_values(axes, name, color=ink.light, fontweight="bold")
        panels[0].xaxis.set_visible(False)
        style.hour_axis(panels[1], edges[0], edges[-1])
        return style.to_svg(figure)


def dead_letters(found: Statistics) -> str | None:
    """Draw the number of dead letters by reason."""
    reasons = found.count("reason")
    if not reasons:
        return None
    with style.our_style():
        figure = style.new_figure("Dead letters, by reason", height=0.6 + 0.32 * len(reasons), bottom=0.15)
        axes = figure.add_subplot()
        axes.set_axis_off()
        highest = max(reasons.values())
        axes.set(xlim=(0, 1.12 * highest), ylim=(len(reasons) - 0.66, -0.34))
        for place, (reason, count) in enumerate(reasons.items()):
            bar = Rectangle((0, place - 0.31), count, 0.62, color=style.VERMILION.light)
            bar.set_gid(f"reason-{reason}")
            axes.add_artist(bar)
            style.add_label(axes, place, reason)
            axes.text(count + 0.011 * highest, place, f"{count:,}", va="center_baseline")
        return style.to_svg(figure)


def retry_delays(delays: DataFrame, policy_name: str, policy: RetryPolicy) -> str | None:
    """Draw the delays before retries, with the policy's curve and the range of its jitter.

    Args:
        delays: the rows of ``Statistics.delays`` under this policy; only the endpoints with the most retries are drawn.
        policy_name: for the title.
        policy: the policy whose curve is drawn.
    """
    if delays.empty:
        return None
    seen = int(delays["after"].max())
    # One attempt more than the last with delays.
    last = min(max(seen, min(seen + 1, policy.max_attempts - 1)), MOST_ATTEMPTS)
    numbers = range(1, last + 1)
    curve = [backoff(policy, number) for number in numbers]
    lows, highs = (np.maximum(_delays_at(policy, numbers, part), style.SHORTEST) for part in (0.0, 1.0))
    ends = [*curve, *lows, *highs]
    with style.our_style():
        title = f"Delays before a retry, policy “{style.shortened(policy_name)}”"
        figure = style.new_figure(title, height=3.0)
        axes = figure.add_subplot()
        look = {
            "color": style.SOFT_TEXT.light,
            "alpha": 0.22,
            "linewidth": 0,
            "label": "range of jitter",
        }
        halves = np.arange(len(numbers) + 1) + 0.5
        style.add_steps(axes, highs, halves, baseline=lows, gid="band", **look)
        if policy.jitter != "decorrelated":  # it has no curve, since it depends on the previous delay
            look = {"color": style.SOFT_TEXT.light, "linewidth": 1.4, "marker": "_", "markersize": 15}
            style.add_line(axes, numbers, curve, label="backoff", gid="curve", **look)
        lanes = _lanes(delays[delays["after"] <= MOST_ATTEMPTS])
        for place, (look, drawn) in enumerate(lanes):
            # A line from the lowest to the highest delay, with a dot at the median.
            after, *delays_after = zip(*drawn, strict=True)
            places = np.add(after, 0.64 * ((place + 0.5) / len(lanes) - 0.5))
            least, median, most = np.maximum(delays_after, style.SHORTEST)
            ranges = np.stack([least, most, np.full(len(least), nan)], axis=1).ravel()
            style.add_line(
                axes, np.repeat(places, 3), ranges, color=look["color"], linewidth=2.6, gid=f"range-{place}"
            )
            look |= {"linestyle": "none", "markersize": 5.5, "gid": f"delays-{place}"}
            style.add_line(axes, places, median, **look)
            ends += [*least, *most]
        style.log_seconds(axes, ends)
        axes.set_xlim(0.5, max(len(numbers), 3) + 0.5)
        ticks = {float(number): str(number) for number in numbers}
        style.place_axis(axes, ticks, "after the n-th attempt of a round")
        style.add_legend(figure)
        return style.to_svg(figure)


def _edges(hours: DataFrame) -> NDArray[np.float64]:
    """Return the starts of the hours, and the end of the last one, in seconds since the epoch."""
    starts = hours.index.to_numpy(float)
    return np.append(starts, starts[-1] + style.HOUR)


def _lanes(delays: DataFrame) -> list[tuple[dict[str, Any], list[Any]]]:
    """Return the lanes to draw side by side: for each endpoint, its delays without and with a Retry-After."""
    retries, lanes = Counter[str](), defaultdict[tuple[str, bool], list[Any]](list)
    columns = ["endpoint", "asked", "count", "after", "least", "median", "most"]
    for endpoint, asked, count, *drawn in delays[columns].to_numpy().tolist():
        retries[endpoint] += count
        lanes[endpoint, asked].append(drawn)
    found = []
    inks = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE)
    for (endpoint, _), ink, marker in zip(retries.most_common(len(inks)), inks, "os^v", strict=False):
        for asked in (False, True):
            if rows := lanes[endpoint, asked]:
                label = f"{style.shortened(endpoint)}{', Retry-After' if asked else ''}"
                look = {"color": ink.light, "marker": marker, "label": label}
                found.append((look | {"markerfacecolor": "none" if asked else ink.light}, rows))
    return found


class _Fixed(Random):
    """Draws the same part of each range: 0 is the lowest value, 1 the highest."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self._part = part

    def random(self) -> float:
        return self._part


def _delays_at(policy: RetryPolicy, numbers: Iterable[int], part: float) -> list[float]:
    """Return the delay after each attempt if jitter always draws this part of its range."""
    rng = _Fixed(part)
    delays: list[float] = []
    for number in numbers:
        last = delays[-1] if delays else None
        delays.append(draw_delay(policy, number, rng, last_delay=last))
    return delays
