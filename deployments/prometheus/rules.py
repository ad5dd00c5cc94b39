"""Generates the alerts of Prometheus, ``alerts.yml``: ``python -m deployments.prometheus.rules`` writes the file.

Conditions, thresholds and durations come from ``resonant.metrics.alerts``, which the flow's check reads too. This module
has the PromQL expressions and the texts of the annotations. ``<name>`` stands for a threshold: ``<silence:m>`` becomes a
PromQL range in minutes, ``<silence:minutes>`` a text such as ``15 minutes``, and ``<error_rate:%>`` a percentage.
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
# docs/monitoring.md explains each alert.
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
    """Replace the names of thresholds with their values."""
    thresholds = Thresholds()
    max_age = Settings.model_construct().policy(DEFAULT_POLICY).max_age
    values = asdict(thresholds) | {
        "held_age": thresholds.held * max_age,
        # Three minutes less, so that one successful probe does not end the alert.
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
        note="A rate over few attempts is not meaningful.",
        expr="""\
endpoint:resonant_attempts_failed:ratio15m > <error_rate>
and endpoint:resonant_attempts:increase15m >= <min_attempts>""",
        summary="{{ $labels.endpoint }}: {{ $value | humanizePercentage }} of attempts fail",
        description="""\
In the last 15 minutes, {{ $value | humanizePercentage }} of the attempts to deliver to {{ $labels.endpoint }}
failed, more than <error_rate:%>. Deliveries are retried while their policy allows it, and then become dead letters.""",
        runbook="""\
resonant metrics --window 1h  # which categories and codes
resonant endpoint test {{ $labels.endpoint }}  # does it answer now""",
    ),
    Rule(
        "ResonantDeadLettersGrowing",
        note="""\
A few dead letters a day are normal; ResonantDeadLetterOld covers those. Neither alert counts cancelled deliveries.""",
        expr="endpoint:resonant_dead_letters:increase1h >= <dead_letters>",
        summary="{{ $labels.endpoint }}: {{ $value | humanize }} more dead letters in an hour",
        description="""\
In the last hour, the number of dead letters of {{ $labels.endpoint }} grew by {{ $value | humanize }}: deliveries
given up minus dead letters replayed. Cancelled deliveries do not count.""",
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
been replayed or purged. The purge will remove it permanently.""",
        runbook="""\
resonant dlq --endpoint {{ $labels.endpoint }} --until 3d  # which
resonant replay --endpoint {{ $labels.endpoint }} --until 3d --dry-run  # what a replay would send""",
    ),
    Rule(
        "ResonantLatency",
        note="""\
Compared with the same hour of the day before, since traffic has a daily rhythm. Both hours need enough attempts. A
rise from 5 ms to 12 ms raises no alert.""",
        expr="""\
endpoint:resonant_attempt_duration_seconds:mean1h
/ endpoint:resonant_attempt_duration_seconds:mean1h offset 1d > <latency_factor>
and endpoint:resonant_attempt_duration_seconds:mean1h
- endpoint:resonant_attempt_duration_seconds:mean1h offset 1d > <felt_latency>
and endpoint:resonant_attempts:increase1h >= <many_attempts>
and endpoint:resonant_attempts:increase1h offset 1d >= <many_attempts>""",
        summary="{{ $labels.endpoint }}: answers take {{ $value | humanize }} times as long as yesterday",
        description="""\
In the last hour, an attempt to deliver to {{ $labels.endpoint }} took {{ $value | humanize }} times as long on
average as in the same hour of the day before.""",
        runbook="""\
resonant metrics --window 2h  # percentiles, and whether timeouts cause them
resonant endpoint test {{ $labels.endpoint }}  # how long a request takes now""",
    ),
    Rule(
        "ResonantExporterSilent",
        note="""\
Uses the last known value, so that a missing target counts as silent, like an outdated file. A target that was removed
on purpose stops counting after a day.""",
        expr="time() - last_over_time(resonant_last_export_timestamp_seconds[1d]) > <export_age>",
        summary="No metrics of Resonant from {{ $labels.instance }} for {{ $value | humanizeDuration }}",
        description="""\
The metrics of {{ $labels.instance }} are {{ $value | humanizeDuration }} old. The flow export-metrics writes them
every 5 minutes, and `resonant prometheus --serve` at each scrape. Other alerts of this store are unreliable now.""",
        runbook="""\
resonant prometheus  # can the store be read at all
resonant status""",
    ),
    Rule(
        "ResonantMetricsAbsent",
        expr="absent(last_over_time(resonant_last_export_timestamp_seconds[1d]))",
        summary="Prometheus has no metrics of Resonant",
        description="""\
No scrape has returned resonant_last_export_timestamp_seconds for a day: nothing serves the
metrics, no textfile is read, or the scrape is not configured.""",
        runbook="""\
resonant prometheus  # what a scrape should return
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
A delivery to {{ $labels.endpoint }} was due {{ $value | humanizeDuration }} ago, and no worker has claimed one
in the last <silence:minutes>: the deployment emit-events/drain does not run, or no worker runs it.""",
        runbook="""\
resonant status --endpoint {{ $labels.endpoint }}  # what is waiting, and since when
resonant emit  # sends the due deliveries from this machine""",
    ),
    Rule(
        "ResonantDeliveriesOverdue",
        note="Sending ramps up after an outage, so the alert waits <overdue:minutes> after an endpoint was down or paused.",
        expr="""\
endpoint:resonant_oldest_due:age_seconds > <overdue>
and endpoint:resonant_last_claim:age_seconds <= <silence>
unless max_over_time(endpoint:resonant_gets_only_probes:bool[<overdue:m>]) == 1""",
        summary="{{ $labels.endpoint }}: deliveries are {{ $value | humanizeDuration }} behind",
        description="""\
Workers make attempts, but the longest waiting delivery to {{ $labels.endpoint }} was due
{{ $value | humanizeDuration }} ago: events arrive faster than they are delivered.""",
        runbook="""\
resonant status --endpoint {{ $labels.endpoint }}  # number of waiting deliveries, and the pace of a paced endpoint
resonant emit  # sends in addition to the workers; does not help while the endpoint is paced""",
    ),
    Rule(
        "ResonantEndpointProbing",
        note="""\
Counts minutes, so that one successful probe does not end the alert. Without deliveries, no probe can be sent.
A silent exporter raises no alert.""",
        expr="""\
clamp_max(
  count_over_time((sum without (state) (resonant_endpoint_state{state="probing"}) == 1)[<probing:m>:1m]), <probing:number>
) > <probing_seen>
unless sum without (status) (resonant_deliveries{status=~"pending|retrying"}) == 0
and ignoring (endpoint) time() - resonant_last_export_timestamp_seconds <= <export_age>""",
        summary="{{ $labels.endpoint }} is down",
        description="""\
{{ $labels.endpoint }} was down for {{ $value }} of the last <probing:minutes>. Its deliveries wait in the store, and only
probes are sent. Sending resumes when a probe succeeds.""",
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
resonant endpoint resume {{ $labels.endpoint }}  # if the receiver is available again
resonant endpoint pause {{ $labels.endpoint }}  # if it is gone permanently: confirms the pause and ends this alert""",
    ),
    Rule(
        "ResonantDeliveriesHeld",
        note="""Half of the default policy's max_age. Change it if your policies differ.""",
        expr="""\
endpoint:resonant_oldest_due:age_seconds > <held_age>
and resonant_deliveries_held > 0""",
        summary="{{ $labels.endpoint }}: deliveries have been held for {{ $value | humanizeDuration }}",
        description="""\
The gate of {{ $labels.endpoint }} holds deliveries, the longest for {{ $value | humanizeDuration }}. After the max_age
of its policy, three days by default, the next failure of a delivery makes it a dead letter.""",
        runbook="""\
resonant endpoint show {{ $labels.endpoint }}  # paused, down, or paced
resonant endpoint resume {{ $labels.endpoint }}  # if it is paused or has been repaired
resonant dlq --endpoint {{ $labels.endpoint }} --reason expired  # expired deliveries; resonant replay sends them again""",
    ),
    Rule(
        "ResonantRetriesDominate",
        expr="""\
instance:resonant_attempts_retried:ratio15m > <retries>
and sum without (endpoint) (endpoint:resonant_attempts_but_probes:increase15m) >= <many_attempts>""",
        summary="{{ $value | humanizePercentage }} of attempts are followed by a retry",
        description="""\
In the last 15 minutes, {{ $value | humanizePercentage }} of all attempts led to a retry: workers spend more time
on failures than on new events.""",
        runbook="""\
resonant metrics --window 1h  # which endpoint
resonant retry-candidates --since 1h  # its dead letters so far""",
    ),
)

if __name__ == "__main__":
    main()
