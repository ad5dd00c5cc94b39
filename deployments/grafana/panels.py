"""Builders of dashboard panels, and queries that several panels share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.heatmap import CellValues, HeatmapColorOptions, YAxisConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.statetimeline import Panel as Timeline
from grafana_foundation_sdk.builders.timeseries import Panel as Graph
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# One exporter at a time: two exporters of the same store would be summed.
EXPORTER = 'instance="$exporter"'
CHOSEN = f'{EXPORTER}, endpoint=~"$endpoint"'
_WIDTH = 24  # of Grafana's grid
_QUANTILES = (0.5, 0.95, 0.99)

Query = tuple[str, str]  # PromQL, and the legend of its series


def rate(counter: str, *more: str, by: str = "endpoint") -> str:
    """Return the query of a counter's rate per second."""
    return f"sum by ({by}) (rate({counter}{{{', '.join([CHOSEN, *more])}}}[$__rate_interval]))"


def quantiles(histogram: str) -> list[Query]:
    """Return the queries of a histogram's percentiles."""
    buckets = rate(f"{histogram}_bucket", by="endpoint, le")
    return [
        (f"histogram_quantile({quantile}, {buckets})", f"{{{{endpoint}}}} p{quantile * 100:.0f}")
        for quantile in _QUANTILES
    ]


def age(timestamp: str) -> str:
    """Return the query of an age at export time, as in the alerts: a silent exporter does not increase it."""
    exported = f"resonant_last_export_timestamp_seconds{{{EXPORTER}}}"
    return f"{exported} - ignoring (endpoint) group_right () {timestamp}{{{CHOSEN}}}"


def figure(title: str, description: str, unit: str, expression: str) -> Stat:
    """Show one number, the latest."""
    return (
        Stat()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .no_value("none")
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.NONE)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .height(4)
        .span(_WIDTH // 6)
        .with_target(_query(expression).instant())
    )


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    stacked: bool = False,
    width: int = _WIDTH // 2,
) -> Graph:
    """Show numbers over time."""
    built = (
        Graph()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .height(8)
        .span(width)
        .fill_opacity(20 if stacked else 0)
        .tooltip(VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    )
    if stacked:
        built.stacking(StackingConfig().mode(common.StackingMode.NORMAL))
    for number, (expression, legend) in enumerate(queries):
        built.with_target(_query(expression, number).range().legend_format(legend))
    return built


def timeline(title: str, description: str, query: Query, states: Mapping[str, str]) -> Timeline:
    """Show states over time, one line per series; ``states`` maps the labels of 0, 1, 2 … to their colours."""
    words = {
        str(number): model.ValueMappingResult(text=text, color=color, index=number)
        for number, (text, color) in enumerate(states.items())
    }
    expression, legend = query
    return (
        Timeline()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(8)
        .span(_WIDTH // 2)
        .mappings([model.ValueMap(options=words)])
        .show_value(common.VisibilityMode.AUTO)
        .merge_values(merge_values=True)
        .with_target(_query(expression).range().legend_format(legend))
    )


def heatmap(title: str, description: str, expression: str) -> Heatmap:
    """Show the number of values in each bucket over time."""
    query = _query(expression).range().format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
    return (
        Heatmap()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .height(8)
        .span(_WIDTH // 2)
        .calculate(calculate=False)
        .color(HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .cell_values(CellValues().unit(units.Short))
        .y_axis(YAxisConfig().unit(units.Seconds))
        .show_y_histogram()
        .with_target(query)
    )


def _query(expression: str, number: int = 0) -> Dataquery:
    return Dataquery().datasource(SOURCE).expr(expression).ref_id("ABCDEFGH"[number])
