"""Charts of a window's statistics: SVGs of a few kilobytes, identical for the same statistics; None without data.

pyplot is not used: it chooses a backend, and keeps every figure in a global. This module takes half a second to import, so
import it only to draw.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from resonant import chart_style as style
from resonant.delivery.retry import backoff, draw_delay

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from pandas import DataFrame

    from resonant.delivery.retry import RetryPolicy
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
            steps = axes.stairs(drawn[column], edges, baseline=None, color=ink.light, label=name, gid=name)
            steps.set(linestyle=dashes, linewidth=2)
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
            axes.stairs(hours[column], edges, fill=True, color=ink.light, linewidth=0, gid=column)
            style.count_axis(axes, hours[column].max())
            axes.set_ylabel(name, color=ink.light, fontweight="bold")
            axes.yaxis.set_label_coords(-0.11, 0.5)  # room for 9,000,000; `align_ylabels` is slow
        style.hour_axis(panels[1], edges[0], edges[-1])
        panels[0].tick_params(bottom=False)
        return style.to_svg(figure)


def dead_letters(found: Statistics) -> str | None:
    """Draw the number of dead letters by reason."""
    reasons = found.count("reason")
    if not reasons:
        return None
    with style.our_style():
        figure = style.new_figure("Dead letters, by reason", height=0.6 + 0.32 * len(reasons), bottom=0.15)
        axes = figure.add_subplot()
        bars = axes.barh(list(reasons), list(reasons.values()), height=0.62, color=style.VERMILION.light)
        for bar, reason in zip(bars, reasons, strict=True):
            bar.set_gid(f"reason-{reason}")
        axes.bar_label(bars, [f"{count:,}" for count in reasons.values()], padding=5)
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.xaxis.set_visible(False)
        axes.tick_params(labelcolor=style.TEXT.light)
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
        band = axes.stairs(highs, np.arange(len(numbers) + 1) + 0.5, baseline=lows, fill=True, gid="band")
        band.set(color=style.SOFT_TEXT.light, alpha=0.22, linewidth=0, label="range of jitter")
        if policy.jitter != "decorrelated":  # it has no curve, since it depends on the previous delay
            [line] = axes.plot(numbers, curve, color=style.SOFT_TEXT.light, label="backoff", gid="curve")
            line.set(linewidth=1.4, marker="_", markersize=15)
        lanes = _lanes(delays[delays["after"] <= MOST_ATTEMPTS])
        for place, (look, drawn) in enumerate(lanes):
            # A line from the lowest to the highest delay, with a dot at the median.
            places = drawn["after"].to_numpy() + 0.64 * ((place + 0.5) / len(lanes) - 0.5)
            least, median, most = np.maximum(drawn[["least", "median", "most"]].to_numpy().T, style.SHORTEST)
            axes.vlines(places, least, most, colors=look["color"], linewidth=2.6)
            axes.plot(places, median, linestyle="none", markersize=5.5, gid=f"delays-{place}", **look)
            ends += [*least, *most]
        style.log_seconds(axes, ends)
        axes.set_xlim(0.5, max(len(numbers), 3) + 0.5)
        axes.set_xticks(list(numbers))
        axes.set_xlabel("after the n-th attempt of a round")
        style.add_legend(figure)
        return style.to_svg(figure)


def _edges(hours: DataFrame) -> NDArray[np.datetime64]:
    """Return the starts of the hours, and the end of the last one."""
    starts = hours.index.to_numpy().astype("datetime64[s]")
    return np.append(starts, starts[-1] + np.timedelta64(1, "h"))


def _lanes(delays: DataFrame) -> list[tuple[dict[str, Any], DataFrame]]:
    """Return the lanes to draw side by side: for each endpoint, its delays without and with a Retry-After."""
    retries = delays.groupby("endpoint")["count"].sum().sort_values(ascending=False, kind="stable")
    inks = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE)
    lanes: list[tuple[dict[str, Any], DataFrame]] = []
    for endpoint, ink, marker in zip(retries.index, inks, "os^v", strict=False):
        of_endpoint = delays[delays["endpoint"] == endpoint]
        for asked in sorted(set(of_endpoint["asked"])):
            label = f"{style.shortened(endpoint)}{', Retry-After' if asked else ''}"
            look = {"color": ink.light, "marker": marker, "label": label}
            drawn = of_endpoint[of_endpoint["asked"] == asked]
            lanes.append((look | {"markerfacecolor": "none" if asked else ink.light}, drawn))
    return lanes


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
