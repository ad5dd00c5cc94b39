"""Makes the Grafana dashboard, ``resonant.json`` beside this file: delivery, latency, retries, queue and dead letters by endpoint.

``python -m deployments.grafana.dashboard`` writes it anew, in the project's folder. Whoever changes it in Grafana's editor
changes a copy; what is to stay is changed here.
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.heatmap import CellValues, HeatmapColorOptions, YAxisConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Graph
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OUTPUT = Path(__file__).with_name("resonant.json")

_SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
# One exporter at a time: two of the same store would be added up.
_EXPORTER = 'instance="$exporter"'
_CHOSEN = f'{_EXPORTER}, endpoint=~"$endpoint"'
_WIDTH = 24  # of Grafana's grid
_QUANTILES = (0.5, 0.95, 0.99)

_Query = tuple[str, str]  # PromQL, and the legend of its series


def dashboard() -> model.Dashboard:
    """Return the dashboard."""
    built = (
        build.Dashboard("Resonant")
        .uid("resonant")
        .description("Delivery of events: what arrives, how long it takes, what fails, what waits.")
        .tags(["resonant"])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("1m")
        .time("now-6h", "now")
        .timezone("browser")
        .variables([_source_variable(), *_query_variables()])
    )
    for title, panels in (
        ("Now", _now()),
        ("Delivery", _delivery()),
        ("Latency", _latency()),
        ("Retries", _retries()),
        ("Queue", _queue()),
        ("Dead letters", _dead_letters()),
    ):
        built.with_row(build.Row(title))
        for panel in panels:
            built.with_panel(panel)
    board = built.build()
    for number, each in enumerate(board.panels or (), 1):
        each.id_val = number
    return board


def to_json(board: model.Dashboard) -> str:
    """Return the dashboard as Grafana imports and provisions it."""
    return JSONEncoder(indent=2, sort_keys=True).encode(board) + "\n"


def main() -> None:
    """Write the file."""
    OUTPUT.write_text(to_json(dashboard()))


def _source_variable() -> build.DatasourceVariable:
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _query_variables() -> list[build.QueryVariable]:
    def variable(name: str, label: str, query: str) -> build.QueryVariable:
        return (
            build.QueryVariable(name)
            .label(label)
            .query(query)
            .datasource(_SOURCE)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
        )

    endpoints = f"label_values(resonant_events_accepted_total{{{_EXPORTER}}}, endpoint)"
    everything = model.VariableOption(selected=True, text=["All"], value=["$__all"])
    return [
        variable("exporter", "Exporter", "label_values(resonant_last_export_timestamp_seconds, instance)"),
        variable("endpoint", "Endpoint", endpoints)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".+")
        .current(everything),
    ]


def _now() -> list[Stat]:
    ended = f"sum(increase(resonant_delivery_outcomes_total{{{_CHOSEN}}}[$__range]))"
    delivered = f'sum(increase(resonant_delivery_outcomes_total{{{_CHOSEN}, outcome="delivered"}}[$__range]))'
    return [
        _figure(
            "Success rate",
            "Of the deliveries that ended in this time, those that were delivered; the others are dead letters.",
            units.PercentUnit,
            f"{delivered} / {ended}",
        ),
        _figure(
            "Unfinished",
            "Deliveries that were never tried or will be tried again.",
            units.Short,
            f'sum(resonant_deliveries{{{_CHOSEN}, status=~"pending|retrying"}})',
        ),
        _figure(
            "Longest overdue",
            "How long ago the longest waiting delivery was due; negative while it is not due yet.",
            units.Seconds,
            f"max({_age('resonant_oldest_due_timestamp_seconds')})",
        ),
        _figure(
            "Dead letters",
            "Deliveries that were given up, and neither replayed nor purged since.",
            units.Short,
            f'sum(resonant_deliveries{{{_CHOSEN}, status="dead_letter"}})',
        ),
        _figure(
            "Oldest dead letter",
            "How long ago it was given up.",
            units.Seconds,
            f"max({_age('resonant_dead_letter_oldest_timestamp_seconds')})",
        ),
        _figure(
            "Age of these metrics",
            "Since they were read from the store: a textfile is written every five minutes.",
            units.Seconds,
            f"time() - max(resonant_last_export_timestamp_seconds{{{_EXPORTER}}})",
        ),
    ]


def _delivery() -> list[Graph]:
    delivered = _rate("resonant_delivery_attempts_total", 'result="delivered"')
    attempts = _rate("resonant_delivery_attempt_duration_seconds_count")
    return [
        _graph(
            "Delivery rate",
            "Deliveries accepted and delivered a second. Where the first stays above the second, a queue grows.",
            units.CountsPerSecond,
            (_rate("resonant_events_accepted_total"), "{{endpoint}} accepted"),
            (_rate("resonant_delivery_outcomes_total", 'outcome="delivered"'), "{{endpoint}} delivered"),
        ),
        _graph(
            "Outcomes",
            "How deliveries ended, a second. An attempt that will be retried is no end.",
            units.CountsPerSecond,
            (_rate("resonant_delivery_outcomes_total", by="endpoint, outcome"), "{{endpoint}} {{outcome}}"),
            stacked=True,
        ),
        _graph(
            "Failed attempts",
            "The part of attempts that failed; those lost with their worker are not counted.",
            units.PercentUnit,
            (f"1 - {delivered} / {attempts}", "{{endpoint}}"),
        ),
        _graph(
            "Failed attempts by cause",
            "A second, by what the classifier said of them.",
            units.CountsPerSecond,
            (
                _rate(
                    "resonant_delivery_attempts_total",
                    'result!="delivered"',
                    by="endpoint, result, category, code",
                ),
                "{{endpoint}} {{result}} {{category}} {{code}}",
            ),
            stacked=True,
        ),
    ]


def _latency() -> list[Heatmap | Graph]:
    buckets = f"resonant_delivery_attempt_duration_seconds_bucket{{{_CHOSEN}}}"
    return [
        _heatmap(
            "Duration of attempts",
            "How many attempts took how long, from the start of the request to its answer or failure.",
            f"sum by (le) (increase({buckets}[$__rate_interval]))",
        ),
        _graph(
            "Duration of attempts: percentiles",
            "From the histogram: exact to its buckets.",
            units.Seconds,
            *_quantiles("resonant_delivery_attempt_duration_seconds"),
        ),
        _graph(
            "Duration of attempts: exact percentiles",
            "Over the window of the exporter, 24 hours by default.",
            units.Seconds,
            (
                f"max by (endpoint, percentile) (resonant_delivery_latency_percentile_seconds{{{_CHOSEN}}})",
                "{{endpoint}} {{percentile}}",
            ),
        ),
        _graph(
            "From acceptance to delivery: percentiles",
            "With all retries and waits, of what was delivered.",
            units.Seconds,
            *_quantiles("resonant_delivery_end_to_end_duration_seconds"),
        ),
    ]


def _retries() -> list[Graph]:
    retries = _rate("resonant_delivery_retry_delay_seconds_count")
    attempts = _rate("resonant_delivery_attempt_duration_seconds_count")
    return [
        _graph(
            "Retries",
            "Decisions to try again, a second.",
            units.CountsPerSecond,
            (retries, "{{endpoint}}"),
            stacked=True,
            width=8,
        ),
        _graph(
            "Attempts that lead to another",
            "The part of attempts after which it was decided to try again.",
            units.PercentUnit,
            (f"{retries} / {attempts}", "{{endpoint}}"),
            width=8,
        ),
        _graph(
            "Delay before a retry: percentiles",
            "As it was decided, whether waited for in the worker or parked in the store.",
            units.Seconds,
            *_quantiles("resonant_delivery_retry_delay_seconds"),
            width=8,
        ),
    ]


def _queue() -> list[Graph]:
    unfinished = f'resonant_deliveries{{{_CHOSEN}, status=~"pending|retrying"}}'
    return [
        _graph(
            "Depth",
            "Deliveries that were never tried, and those that will be tried again.",
            units.Short,
            (f"sum by (endpoint, status) ({unfinished})", "{{endpoint}} {{status}}"),
            stacked=True,
            width=8,
        ),
        _graph(
            "Age",
            "How long ago the longest waiting delivery was due; negative while it is not due yet.",
            units.Seconds,
            (f"max by (endpoint) ({_age('resonant_oldest_due_timestamp_seconds')})", "{{endpoint}}"),
            width=8,
        ),
        _graph(
            "Last sign of a worker",
            "How long ago one claimed deliveries. Where nothing is due, none is expected.",
            units.Seconds,
            (f"max by (endpoint) ({_age('resonant_last_claim_timestamp_seconds')})", "{{endpoint}}"),
            width=8,
        ),
    ]


def _dead_letters() -> list[Graph]:
    return [
        _graph(
            "Dead letters",
            "By the category of their last failure, and why they were given up.",
            units.Short,
            (
                f"sum by (endpoint, category, reason) (resonant_dead_letters{{{_CHOSEN}}})",
                "{{endpoint}} {{category}} {{reason}}",
            ),
            stacked=True,
            width=8,
        ),
        _graph(
            "Age of the oldest",
            "How long ago it was given up.",
            units.Seconds,
            (f"max by (endpoint) ({_age('resonant_dead_letter_oldest_timestamp_seconds')})", "{{endpoint}}"),
            width=8,
        ),
        _graph(
            "Given up, replayed, purged",
            "A second.",
            units.CountsPerSecond,
            (_rate("resonant_delivery_outcomes_total", 'outcome="dead_letter"'), "{{endpoint}} given up"),
            (_rate("resonant_dead_letter_replays_total"), "{{endpoint}} replayed"),
            (_rate("resonant_dead_letter_purges_total"), "{{endpoint}} purged"),
            width=8,
        ),
    ]


def _rate(counter: str, *more: str, by: str = "endpoint") -> str:
    return f"sum by ({by}) (rate({counter}{{{', '.join([_CHOSEN, *more])}}}[$__rate_interval]))"


def _quantiles(histogram: str) -> list[_Query]:
    buckets = _rate(f"{histogram}_bucket", by="endpoint, le")
    return [
        (f"histogram_quantile({quantile}, {buckets})", f"{{{{endpoint}}}} p{quantile * 100:.0f}")
        for quantile in _QUANTILES
    ]


def _age(timestamp: str) -> str:
    """Count at the time of the export, as the alerts do: a silent exporter makes nothing older."""
    exported = f"resonant_last_export_timestamp_seconds{{{_EXPORTER}}}"
    return f"{exported} - ignoring (endpoint) group_right () {timestamp}{{{_CHOSEN}}}"


def _figure(title: str, description: str, unit: str, expression: str) -> Stat:
    return (
        Stat()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .no_value("none")
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.NONE)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .height(4)
        .span(_WIDTH // 6)
        .with_target(_query(expression).instant())
    )


def _graph(
    title: str,
    description: str,
    unit: str,
    *queries: _Query,
    stacked: bool = False,
    width: int = _WIDTH // 2,
) -> Graph:
    graph = (
        Graph()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .height(8)
        .span(width)
        .fill_opacity(20 if stacked else 0)
        .tooltip(VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    )
    if stacked:
        graph.stacking(StackingConfig().mode(common.StackingMode.NORMAL))
    for number, (expression, legend) in enumerate(queries):
        graph.with_target(_query(expression, number).range().legend_format(legend))
    return graph


def _heatmap(title: str, description: str, expression: str) -> Heatmap:
    query = _query(expression).range().format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
    return (
        Heatmap()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
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
    return Dataquery().datasource(_SOURCE).expr(expression).ref_id("ABCDEFGH"[number])


if __name__ == "__main__":
    main()
