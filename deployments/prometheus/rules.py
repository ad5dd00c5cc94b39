"""Generates the alerts of Prometheus, ``alerts.yml``: ``python -m deployments.prometheus.rules`` writes the file.

Conditions, thresholds and durations come from ``resonant.metrics.alerts``, which the flow's check reads too. This module
has the PromQL expressions and the texts of the annotations. ``<name>`` is replaced by a threshold: ``<silence:m>`` as a
range of minutes, ``<silence:minutes>`` in words, ``<error_rate:%>`` as a percentage.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from resonant.metrics.alerts import DEFINITIONS, percent
from resonant.settings import DEFAULT_POLICY, Settings, Thresholds

OUTPUT = Path(__file__).with_name("alerts.yml")
_HEAD = """\
# Alerts on the values that recording.yml computes. `python -m deployments.prometheus.rules` generates this file.
# docs/monitoring.md says what each alert means.
#
# `runbook` has the first commands to run. They need the RESONANT_DATABASE_URL of the workers.
#
# `keep_firing_for` keeps an alert from flapping when its value hovers around the threshold. The alert ends when
# the value has stayed below the threshold for that time.

groups:
  - name: resonant-alerts
    rules:
"""


class Rule(NamedTuple):
    """The expression and the texts of an alert, which only Prometheus uses."""

    alert: str
    expr: str
    summary: str
    description: str
    runbook: str
    note: str = ""


def alerts() -> str:
    """Return the text of ``alerts.yml``, with the default thresholds."""
    return _HEAD + "\n".join(map(_yaml, RULES))


def main() -> None:
    """Write the file."""
    OUTPUT.write_text(alerts())


def _yaml(rule: Rule) -> str:
    [definition] = [each for each in DEFINITIONS if each.alert == rule.alert]
    lines = [f"      # {line}" for line in rule.note.splitlines()]
    lines += [f"      - alert: {rule.alert}", *_block("expr", rule.expr, 8, folded=True)]
    if definition.lasts:
        lines.append(f"        for: {definition.lasts}")
    if definition.stays:
        lines.append(f"        keep_firing_for: {definition.stays}")
    lines += ["        labels:", f"          severity: {definition.severity}", "        annotations:"]
    lines += [
        f'          summary: "{rule.summary}"',
        *_block("description", rule.description, 10, folded=True),
        *_block("runbook", rule.runbook, 10, folded=False),
    ]
    return _filled("\n".join(lines)) + "\n"


def _block(name: str, text: str, indent: int, *, folded: bool) -> list[str]:
    space = " " * indent
    lines = text.splitlines()
    if folded and len(lines) == 1:
        return [f"{space}{name}: {text}"]
    return [f"{space}{name}: {'>-' if folded else '|-'}", *(f"{space}  {line}" for line in lines)]


def _filled(text: str) -> str:
    """Replace the names of thresholds by their values."""
    thresholds = Thresholds()
    max_age = Settings.model_construct().policy(DEFAULT_POLICY).max_age
    values = asdict(thresholds) | {
        "held_age": thresholds.held * max_age,
        # Three minutes less, so that one lucky probe does not end the alert.
        "probing_seen": thresholds.probing / 60 - 3,
    }

    def value(match: re.Match[str]) -> str:
        number = values[match["name"]]
        match match["form"]:
            case "%":
                return percent(number)
            case "m":
                return f"{number / 60:g}m" if number % 60 == 0 else f"{number:.0f}s"
            case "minutes":
                return f"{number / 60:g} minutes"
            case "number":
                return f"{number / 60:g}"
            case _:
                return f"{number:g}" if number < _EXACT else f"{number:.0f}"

    return re.sub(r"<(?P<name>[a-z_]+)(:(?P<form>[a-z%]+))?>", value, text)


# Beyond this, `g` writes an exponent.
_EXACT = 100_000

RULES = (
    Rule(
        "ResonantErrorRate",
        note="A rate over few attempts is noise.",
        expr="""\
endpoint:resonant_attempts_failed:ratio15m > <error_rate>
and endpoint:resonant_attempts:increase15m >= <min_attempts>""",
        summary="{{ $labels.endpoint }}: {{ $value | humanizePercentage }} of attempts fail",
        description="""\
Of the attempts to deliver to {{ $labels.endpoint }} in the last 15 minutes
{{ $value | humanizePercentage }} failed, more than <error_rate:%>. They are retried for as long as the policy allows, then
become dead letters.""",
        runbook="""\
resonant metrics --window 1h  # which categories and codes
resonant endpoint test {{ $labels.endpoint }}  # does it answer now""",
    ),
    Rule(
        "ResonantDeadLettersGrowing",
        note="""\
A few in a day are normal; ResonantDeadLetterOld covers those. Neither alert counts cancelled deliveries.""",
        expr="endpoint:resonant_dead_letters:increase1h >= <dead_letters>",
        summary="{{ $labels.endpoint }}: {{ $value | humanize }} more dead letters in an hour",
        description="""\
In the last hour {{ $value | humanize }} more deliveries to {{ $labels.endpoint }} were given up than dead letters
were replayed; cancelled deliveries do not count.""",
        runbook="""\
resonant dlq --endpoint {{ $labels.endpoint }} --since 1h  # why
resonant replay --endpoint {{ $labels.endpoint }} --since 1h --rate 20 --dry-run  # once it is repaired; then without --dry-run""",
    ),
    Rule(
        "ResonantDeadLetterOld",
        note="The default, three days, covers a weekend. The daily purge removes dead letters older than 30 days.",
        expr="endpoint:resonant_dead_letter_oldest:age_seconds > <dead_letter_age>",
        summary="{{ $labels.endpoint }}: a dead letter has waited {{ $value | humanizeDuration }}",
        description="""\
The oldest dead letter of {{ $labels.endpoint }} was given up {{ $value | humanizeDuration }} ago, and has not
been replayed or purged. The purge will remove it for good.""",
        runbook="""\
resonant dlq --endpoint {{ $labels.endpoint }} --until 3d  # which
resonant replay --endpoint {{ $labels.endpoint }} --until 3d --dry-run  # what a replay would send""",
    ),
    Rule(
        "ResonantLatency",
        note="""\
Compared with the same hour of the day before, since traffic has a daily rhythm. Both hours need enough attempts, and a
rise from 5 ms to 12 ms needs no alert.""",
        expr="""\
endpoint:resonant_attempt_duration_seconds:mean1h
/ endpoint:resonant_attempt_duration_seconds:mean1h offset 1d > <latency_factor>
and endpoint:resonant_attempt_duration_seconds:mean1h
- endpoint:resonant_attempt_duration_seconds:mean1h offset 1d > <felt_latency>
and endpoint:resonant_attempts:increase1h >= <many_attempts>
and endpoint:resonant_attempts:increase1h offset 1d >= <many_attempts>""",
        summary="{{ $labels.endpoint }}: answers take {{ $value | humanize }} times as long as yesterday",
        description="""\
In the last hour an attempt to deliver to {{ $labels.endpoint }} took {{ $value | humanize }} times as long, on
average, as in the same hour of the day before.""",
        runbook="""\
resonant metrics --window 2h  # percentiles, and whether timeouts cause them
resonant endpoint test {{ $labels.endpoint }}  # how long one takes now""",
    ),
    Rule(
        "ResonantExporterSilent",
        note="""\
Uses the last known value, so that a missing target counts as silent, as an old file does. A target that was removed on
purpose is forgotten after a day.""",
        expr="time() - last_over_time(resonant_last_export_timestamp_seconds[1d]) > <export_age>",
        summary="No metrics of Resonant from {{ $labels.instance }} for {{ $value | humanizeDuration }}",
        description="""\
The metrics of {{ $labels.instance }} are {{ $value | humanizeDuration }} old; the flow export-metrics writes them
every 5 minutes, `resonant prometheus --serve` at each scrape. No other alert of this store can be trusted.""",
        runbook="""\
resonant prometheus  # can the store be read at all
resonant status""",
    ),
    Rule(
        "ResonantMetricsAbsent",
        expr="absent(last_over_time(resonant_last_export_timestamp_seconds[1d]))",
        summary="Prometheus has no metrics of Resonant",
        description="""\
For a day no scrape has brought resonant_last_export_timestamp_seconds: nothing serves the
metrics, no textfile is read, or the scrape is not configured.""",
        runbook="""\
resonant prometheus  # what a scrape should bring
resonant prometheus --serve 9464  # answers scrapes""",
    ),
    Rule(
        "ResonantDrainSilent",
        note="""\
Workers do not claim deliveries of a paused endpoint. After a resume, they have <silence:minutes> to start.""",
        expr="""\
endpoint:resonant_oldest_due:age_seconds > <silence>
unless endpoint:resonant_last_claim:age_seconds <= <silence>
unless ignoring (state) max_over_time(resonant_endpoint_state{state="paused"}[<silence:m>]) == 1""",
        summary="""\
{{ $labels.endpoint }}: no worker sends, and a delivery is {{ $value | humanizeDuration }} overdue""",
        description="""\
A delivery to {{ $labels.endpoint }} was due {{ $value | humanizeDuration }} ago, and in the last <silence:minutes> no worker
has claimed one: the deployment emit-events/drain does not run, or no worker takes it.""",
        runbook="""\
resonant status --endpoint {{ $labels.endpoint }}  # what waits, since when
resonant emit  # emits what is due, here and now""",
    ),
    Rule(
        "ResonantDeliveriesOverdue",
        note="After an outage, sending ramps up: waits <overdue:minutes> after an endpoint was down or paused.",
        expr="""\
endpoint:resonant_oldest_due:age_seconds > <overdue>
and endpoint:resonant_last_claim:age_seconds <= <silence>
unless max_over_time(endpoint:resonant_gets_only_probes:bool[<overdue:m>]) == 1""",
        summary="{{ $labels.endpoint }}: deliveries are {{ $value | humanizeDuration }} behind",
        description="""\
Workers make attempts, and still the longest waiting delivery to {{ $labels.endpoint }} was due
{{ $value | humanizeDuration }} ago: events arrive faster than they are delivered.""",
        runbook="""\
resonant status --endpoint {{ $labels.endpoint }}  # how many wait; at what pace, if it is paced
resonant emit  # another sender beside the workers; no help while it is paced""",
    ),
    Rule(
        "ResonantEndpointProbing",
        note="""\
Counts minutes, so that one lucky probe does not end the alert. Without deliveries, there is nothing to probe
with. A silent exporter raises no alert.""",
        expr="""\
clamp_max(
  count_over_time((sum without (state) (resonant_endpoint_state{state="probing"}) == 1)[<probing:m>:1m]), <probing:number>
) > <probing_seen>
unless sum without (status) (resonant_deliveries{status=~"pending|retrying"}) == 0
and ignoring (endpoint) time() - resonant_last_export_timestamp_seconds <= <export_age>""",
        summary="{{ $labels.endpoint }} is down",
        description="""\
{{ $labels.endpoint }} was down for {{ $value }} of the last <probing:minutes>. Its deliveries wait in the store, and only
probes are sent. Sending starts again when a probe works.""",
        runbook="""\
resonant endpoint show {{ $labels.endpoint }}  # since when, why, and when the next probe is due
resonant endpoint test {{ $labels.endpoint }}  # does it answer now
resonant endpoint resume {{ $labels.endpoint }}  # once it is repaired: probe now""",
    ),
    Rule(
        "ResonantEndpointGone",
        expr="""\
resonant_last_export_timestamp_seconds
- ignoring (endpoint) group_right () resonant_endpoint_gone_timestamp_seconds""",
        summary="{{ $labels.endpoint }} answered 410 Gone and is paused",
        description="""\
{{ $labels.endpoint }} answered 410 Gone {{ $value | humanizeDuration }} ago: the receiver wants no more events. The
endpoint is paused, and its deliveries wait in the store until an operator resumes it.""",
        runbook="""\
resonant endpoint show {{ $labels.endpoint }}  # how many deliveries it holds
resonant endpoint resume {{ $labels.endpoint }}  # if the receiver is back
resonant endpoint pause {{ $labels.endpoint }}  # if it is gone for good: confirms the pause, and this alert ends""",
    ),
    Rule(
        "ResonantDeliveriesHeld",
        note="""Half of the default policy's max_age. Change it if your policies differ.""",
        expr="""\
endpoint:resonant_oldest_due:age_seconds > <held_age>
and resonant_deliveries_held > 0""",
        summary="{{ $labels.endpoint }}: deliveries are held for {{ $value | humanizeDuration }}",
        description="""\
The gate of {{ $labels.endpoint }} holds deliveries, the longest for {{ $value | humanizeDuration }}. After the max_age
of its policy, three days by default, the next failure of a delivery makes it a dead letter.""",
        runbook="""\
resonant endpoint show {{ $labels.endpoint }}  # paused, down, or paced
resonant endpoint resume {{ $labels.endpoint }}  # if it is paused, or is repaired
resonant dlq --endpoint {{ $labels.endpoint }} --reason expired  # what was given up; resonant replay sends it again""",
    ),
    Rule(
        "ResonantRetriesDominate",
        expr="""\
instance:resonant_attempts_retried:ratio15m > <retries>
and sum without (endpoint) (endpoint:resonant_attempts_but_probes:increase15m) >= <many_attempts>""",
        summary="{{ $value | humanizePercentage }} of attempts are followed by a retry",
        description="""\
In the last 15 minutes {{ $value | humanizePercentage }} of all attempts ended in a retry: workers spend more time
on failures than on new events.""",
        runbook="""\
resonant metrics --window 1h  # which endpoint
resonant retry-candidates --since 1h  # its dead letters so far""",
    ),
)

if __name__ == "__main__":
    main()
