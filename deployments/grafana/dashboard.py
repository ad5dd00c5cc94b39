"""Generates the Grafana dashboard ``resonant.json``: delivery, latency, retries, queue, gate and dead letters by endpoint.

``python -m deployments.grafana.dashboard`` writes the file. Grafana's editor changes only a copy, so change the dashboard
here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import units

from deployments.grafana.panels import (
    CHOSEN,
    EXPORTER,
    SOURCE,
    age,
    figure,
    graph,
    heatmap,
    quantiles,
    rate,
    timeline,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
    from grafana_foundation_sdk.builders.stat import Panel as Stat
    from grafana_foundation_sdk.builders.statetimeline import Panel as Timeline
    from grafana_foundation_sdk.builders.timeseries import Panel as Graph

OUTPUT = Path(__file__).with_name("resonant.json")


def dashboard() -> model.Dashboard:
    """Return the dashboard."""
    built = (
        build.Dashboard("Resonant")
        .uid("resonant")
        .description("Delivery of events: rates, latencies, failures, queues, gates and dead letters.")
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
        ("Gate", _gate()),
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
    """Return the dashboard as JSON that Grafana can import or provision."""
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
            .datasource(SOURCE)
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
        )

    endpoints = f"label_values(resonant_events_accepted_total{{{EXPORTER}}}, endpoint)"
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
    ended = f"sum(increase(resonant_delivery_outcomes_total{{{CHOSEN}}}[$__range]))"
    delivered = f'sum(increase(resonant_delivery_outcomes_total{{{CHOSEN}, outcome="delivered"}}[$__range]))'
    return [
        figure(
            "Success rate",
            "Delivered share of the deliveries that ended in the selected time; the rest are dead letters.",
            units.PercentUnit,
            f"{delivered} / {ended}",
        ),
        figure(
            "Unfinished",
            "Deliveries that are pending or will be retried.",
            units.Short,
            f'sum(resonant_deliveries{{{CHOSEN}, status=~"pending|retrying"}})',
        ),
        figure(
            "Longest overdue",
            "Time since the longest waiting delivery became due; negative if it is not due yet.",
            units.Seconds,
            f"max({age('resonant_oldest_due_timestamp_seconds')})",
        ),
        figure(
            "Dead letters",
            "Deliveries that were given up and have not been replayed or purged.",
            units.Short,
            f'sum(resonant_deliveries{{{CHOSEN}, status="dead_letter"}})',
        ),
        figure(
            "Oldest dead letter",
            "Time since it was given up.",
            units.Seconds,
            f"max({age('resonant_dead_letter_oldest_timestamp_seconds')})",
        ),
        figure(
            "Age of these metrics",
            "Time since they were read from the store. A textfile is written every five minutes.",
            units.Seconds,
            f"time() - max(resonant_last_export_timestamp_seconds{{{EXPORTER}}})",
        ),
    ]


def _delivery() -> list[Graph]:
    delivered = rate("resonant_delivery_attempts_total", 'result="delivered"')
    attempts = rate("resonant_delivery_attempt_duration_seconds_count")
    return [
        graph(
            "Delivery rate",
            "Deliveries accepted and delivered per second. While more are accepted than delivered, the queue grows.",
            units.CountsPerSecond,
            (rate("resonant_events_accepted_total"), "{{endpoint}} accepted"),
            (rate("resonant_delivery_outcomes_total", 'outcome="delivered"'), "{{endpoint}} delivered"),
        ),
        graph(
            "Outcomes",
            "Deliveries that ended per second, by outcome. Failed attempts that are retried do not count.",
            units.CountsPerSecond,
            (rate("resonant_delivery_outcomes_total", by="endpoint, outcome"), "{{endpoint}} {{outcome}}"),
            stacked=True,
        ),
        graph(
            "Failed attempts",
            "Share of attempts that failed. Attempts lost with their worker do not count.",
            units.PercentUnit,
            (f"1 - {delivered} / {attempts}", "{{endpoint}}"),
        ),
        graph(
            "Failed attempts by cause",
            "Failed attempts per second, by the classifier's verdict.",
            units.CountsPerSecond,
            (
                rate(
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
    buckets = f"resonant_delivery_attempt_duration_seconds_bucket{{{CHOSEN}}}"
    return [
        heatmap(
            "Duration of attempts",
            "Number of attempts by duration, from the start of the request to the answer or failure.",
            f"sum by (le) (increase({buckets}[$__rate_interval]))",
        ),
        graph(
            "Duration of attempts: percentiles",
            "Computed from the histogram; its buckets limit the precision.",
            units.Seconds,
            *quantiles("resonant_delivery_attempt_duration_seconds"),
        ),
        graph(
            "Duration of attempts: percentiles of the window",
            "Over the window of the exporter, 24 hours by default, with an error below 1 %.",
            units.Seconds,
            (
                f"max by (endpoint, percentile) (resonant_delivery_latency_percentile_seconds{{{CHOSEN}}})",
                "{{endpoint}} {{percentile}}",
            ),
            width=8,
        ),
        graph(
            "From acceptance to the first attempt: percentiles",
            "Over the window of the exporter, 24 hours by default.",
            units.Seconds,
            (
                f"max by (endpoint, percentile) (resonant_delivery_first_attempt_percentile_seconds{{{CHOSEN}}})",
                "{{endpoint}} {{percentile}}",
            ),
            width=8,
        ),
        graph(
            "From acceptance to delivery: percentiles",
            "Of delivered events, including all retries and waits.",
            units.Seconds,
            *quantiles("resonant_delivery_end_to_end_duration_seconds"),
            width=8,
        ),
    ]


def _retries() -> list[Graph]:
    retries = rate("resonant_delivery_retry_delay_seconds_count")
    attempts = rate("resonant_delivery_attempt_duration_seconds_count")
    return [
        graph(
            "Retries",
            "Retries per second, counted when they are decided.",
            units.CountsPerSecond,
            (retries, "{{endpoint}}"),
            stacked=True,
            width=8,
        ),
        graph(
            "Attempts that are retried",
            "Share of attempts that lead to a retry.",
            units.PercentUnit,
            (f"{retries} / {attempts}", "{{endpoint}}"),
            width=8,
        ),
        graph(
            "Delay before a retry: percentiles",
            "The decided delay, whether the delivery waits in the worker or in the store.",
            units.Seconds,
            *quantiles("resonant_delivery_retry_delay_seconds"),
            width=8,
        ),
    ]


def _queue() -> list[Graph]:
    unfinished = f'resonant_deliveries{{{CHOSEN}, status=~"pending|retrying"}}'
    return [
        graph(
            "Depth",
            "Pending deliveries, and deliveries that will be retried.",
            units.Short,
            (f"sum by (endpoint, status) ({unfinished})", "{{endpoint}} {{status}}"),
            stacked=True,
            width=8,
        ),
        graph(
            "Age",
            "Time since the longest waiting delivery became due; negative if it is not due yet.",
            units.Seconds,
            (f"max by (endpoint) ({age('resonant_oldest_due_timestamp_seconds')})", "{{endpoint}}"),
            width=8,
        ),
        graph(
            "Last claim by a worker",
            "Time since a worker last claimed deliveries. No claim is expected while nothing is due.",
            units.Seconds,
            (f"max by (endpoint) ({age('resonant_last_claim_timestamp_seconds')})", "{{endpoint}}"),
            width=8,
        ),
    ]


def _gate() -> list[Timeline | Graph]:
    gone = f"count by (endpoint) (resonant_endpoint_gone_timestamp_seconds{{{CHOSEN}}})"
    number_of_state = " + ".join(
        f'{number} * sum by (endpoint) (resonant_endpoint_state{{{CHOSEN}, state="{state}"}})'
        for number, state in enumerate(("paced", "probing", "paused"), 1)
    )
    return [
        timeline(
            "State",
            "normal: unlimited; paced: limited rate; probing: only probes; paused: nothing is sent.",
            (f"({number_of_state} + {gone}) or ({number_of_state})", "{{endpoint}}"),
            {
                "normal": "green",
                "paced": "blue",
                "probing": "orange",
                "paused": "purple",
                "paused, it answered 410": "red",
            },
        ),
        graph(
            "Held",
            "Deliveries that are due and held by the gate.",
            units.Short,
            (f"sum by (endpoint) (resonant_deliveries_held{{{CHOSEN}}})", "{{endpoint}}"),
            stacked=True,
        ),
        graph(
            "Pace",
            "Sends per second that the gate of a paced endpoint allows, and deliveries per second.",
            units.CountsPerSecond,
            (f"max by (endpoint) (resonant_endpoint_pace_per_second{{{CHOSEN}}})", "{{endpoint}} pace"),
            (
                rate("resonant_delivery_outcomes_total", 'outcome="delivered"'),
                "{{endpoint}} delivered",
            ),
        ),
        graph(
            "Attempts",
            "Attempts per second, delivered or failed. While an endpoint is probing, these are its probes.",
            units.CountsPerSecond,
            (rate("resonant_delivery_attempt_duration_seconds_count"), "{{endpoint}}"),
        ),
    ]


def _dead_letters() -> list[Graph]:
    return [
        graph(
            "Dead letters",
            "By the category of the last failure and the reason for giving up.",
            units.Short,
            (
                f"sum by (endpoint, category, reason) (resonant_dead_letters{{{CHOSEN}}})",
                "{{endpoint}} {{category}} {{reason}}",
            ),
            stacked=True,
            width=8,
        ),
        graph(
            "Age of the oldest",
            "Time since it was given up.",
            units.Seconds,
            (f"max by (endpoint) ({age('resonant_dead_letter_oldest_timestamp_seconds')})", "{{endpoint}}"),
            width=8,
        ),
        graph(
            "Given up, replayed, purged",
            "Dead letters per second.",
            units.CountsPerSecond,
            (rate("resonant_delivery_outcomes_total", 'outcome="dead_letter"'), "{{endpoint}} given up"),
            (rate("resonant_dead_letter_replays_total"), "{{endpoint}} replayed"),
            (rate("resonant_dead_letter_purges_total"), "{{endpoint}} purged"),
            width=8,
        ),
    ]


if __name__ == "__main__":
    main()
