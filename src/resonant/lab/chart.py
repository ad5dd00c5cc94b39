"""The comparison as SVG: requests per second at the endpoint, with and without the gate, one row for each policy.

Importing this module takes half a second, so import it only to draw.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes

from resonant.chart_style import (
    BLUE,
    SOFT_TEXT,
    TEXT,
    VERMILION,
    add_legend,
    count_axis,
    name_values,
    new_figure,
    our_style,
    shortened,
    to_svg,
)
from resonant.lab.comparison import Variant, seen, window
from resonant.lab.scenario import Scenario

_ROW = 1.35


def svg(scenario: Scenario, variants: Sequence[Variant]) -> str:
    """Draw the requests per second of the first seed."""
    names = list(dict.fromkeys(variant.policy for variant in variants))
    first, last = window(scenario)
    with our_style():
        title = "Requests per second at the endpoint, by retry policy"
        figure = new_figure(title, height=1.05 + _ROW * len(names))
        grid = figure.subplots(len(names), 1, sharex=True, squeeze=False)
        for row, name in enumerate(names):
            axes = grid[row][0]
            pair = [variant for variant in variants if variant.policy == name]
            _draw(axes, scenario, pair, first, last, is_first=row == 0)
            name_values(axes, shortened(name), color=SOFT_TEXT.light)
        grid[-1][0].set_xlabel("seconds from the start of the outage")
        add_legend(figure)
        return to_svg(figure)


def _draw(
    axes: Axes, scenario: Scenario, pair: Sequence[Variant], first: int, last: int, *, is_first: bool
) -> None:
    def label(text: str) -> str | None:
        return text if is_first else None

    if scenario.outage > first:
        axes.axvspan(
            first, scenario.outage, color=SOFT_TEXT.light, alpha=0.12, linewidth=0, label=label("outage")
        )
    if scenario.capacity:
        axes.axhline(
            scenario.capacity, color=TEXT.light, linewidth=0.9, linestyle="--", label=label("capacity")
        )
    highest = 0
    for variant in pair:
        counts = seen(variant, first, last)
        highest = max(highest, *counts)
        ink, text = (BLUE, "with the gate") if variant.has_gate else (VERMILION, "without the gate")
        axes.step(range(first, last), counts, where="post", color=ink.light, linewidth=1.3, label=label(text))
    # Synchronized retries reach thousands of times the capacity, and would flatten all other curves.
    top = min(highest, 4 * scenario.capacity) if scenario.capacity else highest
    count_axis(axes, top)
    axes.set_xlim(first, last)
