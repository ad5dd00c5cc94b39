"""Alerts: their conditions, and the crossings at which an alert begins or ends.

``DEFINITIONS`` lists each alert once, for the flow's check and the docs. The Prometheus rules repeat its thresholds, which are
those of the settings and a few constants.

An alert on a rate or a count begins at its threshold and ends at half of it. In between, it does not change, so it does not
flap around the threshold. An age needs no such rule, since it grows until an operator acts.

``conditions`` evaluates the conditions. ``deployments/prometheus/alerts.yml`` has the rules; a test compares them.

A crossing is decided once, by a compare-and-set that stores its announcement together with the new state.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, select, update

from resonant.settings import Settings
from resonant.store import schema
from resonant.store.engine.clock import MOST_APART_SECONDS
from resonant.store.engine.sql import insert_into
from resonant.store.queue.own_events import OwnEvent, store_reports
from resonant.store.shared.announcements import add_announcement, prefect_event

_MINUTE = 60
# With fewer attempts, a mean or a share of retries is mostly noise.
MANY_ATTEMPTS = 100
# Seconds by which the mean duration must grow: a rise from 5 ms to 12 ms needs no alert.
FELT_LATENCY = 0.1
# Share of its max_age after which a held delivery raises an alert; the rest leaves time for an operator to act.
HELD_SHARE = 0.5
# Seconds, only for Prometheus: a delivery may be overdue while workers claim deliveries, and an export old, for so long.
OVERDUE, EXPORT_AGE = 1800, 900
ALL_ENDPOINTS = ""
# Prefect's events about alerts.
EVENT_RAISED, EVENT_RECOVERED = "resonant.alert.raised", "resonant.alert.recovered"
_t = schema.alerts


class AlertCondition(StrEnum):
    """The kinds of alerts."""

    ERROR_RATE = "error_rate"
    DEAD_LETTERS = "dead_letters"
    DEAD_LETTER_AGE = "dead_letter_age"
    LATENCY = "latency"
    DRAIN_SILENT = "drain_silent"
    RETRIES = "retries"
    PROBING = "probing"
    FAILING_TYPES = "failing_types"
    GONE = "gone"
    HELD = "held"
    CLOCKS = "clocks"


class Definition(NamedTuple):
    """An alert, for the flow, Prometheus and the docs.

    Attributes:
        condition: None if only Prometheus can check it.
        alert: its name in Prometheus; empty if only the flow can check it.
        runbook: the heading in docs/runbook.md.
        begins: when it begins, in the flow and in Prometheus.
        ends: when the flow ends it; empty if only Prometheus can check it.
    """

    condition: AlertCondition | None
    alert: str
    runbook: str
    begins: str
    ends: str = ""


def definitions(of: Settings) -> tuple[Definition, ...]:
    """Return the definitions with the thresholds of these settings."""
    window = f"{of.alert_window_minutes:g} minutes"
    return (
        Definition(
            *(AlertCondition.ERROR_RATE, "ResonantErrorRate", "Many attempts fail"),
            f"over {percent(of.alert_error_rate)} of at least {of.alert_min_attempts} attempts in {window} failed",
            f"at {percent(of.alert_error_rate / 2)}, with at least one attempt",
        ),
        Definition(
            *(AlertCondition.DEAD_LETTERS, "ResonantDeadLettersGrowing", "Dead letters grow"),
            f"in an hour, {of.alert_dead_letters_per_hour} more deliveries were given up than replayed, without cancelled ones "
            "and acknowledged causes (Prometheus: without cancelled ones)",
            f"at {of.alert_dead_letters_per_hour // 2}",
        ),
        Definition(
            *(AlertCondition.DEAD_LETTER_AGE, "ResonantDeadLetterOld", "Dead letters grow"),
            f"a dead letter has waited for {of.alert_dead_letter_age_hours / 24:g} days; cancelled ones and acknowledged "
            "causes do not count",
            "when it is replayed or purged, or its cause acknowledged",
        ),
        Definition(
            *(AlertCondition.LATENCY, "ResonantLatency", "An endpoint is slow"),
            f"attempts take over {of.alert_latency_factor:g} times as long as in the same hour "
            f"of the day before, and over {FELT_LATENCY:g} s longer, with at least {MANY_ATTEMPTS} attempts in both hours",
            f"when the factor is halfway back to 1, the difference is {FELT_LATENCY / 2:g} s, or {MANY_ATTEMPTS // 2} "
            "attempts remain",
        ),
        Definition(
            *(AlertCondition.DRAIN_SILENT, "ResonantDrainSilent", "Nothing is sent"),
            f"a delivery is {of.alert_silence_minutes:g} minutes overdue, no worker has claimed one in that time, and the endpoint "
            "is not paused",
            "when one is claimed",
        ),
        Definition(
            *(AlertCondition.RETRIES, "ResonantRetriesDominate", "Many attempts fail"),
            f"over {percent(of.alert_retry_share)} of at least {MANY_ATTEMPTS} attempts in {window} were followed by a retry; endpoints "
            "that are down do not count",
            f"at {percent(of.alert_retry_share / 2)}, or {MANY_ATTEMPTS // 2} attempts",
        ),
        Definition(
            *(AlertCondition.PROBING, "ResonantEndpointProbing", "An endpoint is down"),
            f"an endpoint was down for {of.alert_probing_minutes:g} minutes while deliveries waited (Prometheus: all but two)",
            "when it is normal, paused, or has been paced for a minute",
        ),
        Definition(
            *(AlertCondition.FAILING_TYPES, "ResonantEventTypesFailing", "A type of events fails"),
            f"an event type failed for {of.alert_probing_minutes:g} minutes while others worked, and the endpoint is not down "
            "(Prometheus: any types, in all but two of these minutes)",
            f"when no type has failed for over {of.alert_probing_minutes / 2:g} minutes, or the endpoint is paused",
        ),
        Definition(
            *(AlertCondition.GONE, "ResonantEndpointGone", "An endpoint answered 410"),
            "an endpoint answered 410 and was paused",
            "when an operator resumes or pauses it",
        ),
        Definition(
            *(AlertCondition.HELD, "ResonantDeliveriesHeld", "Deliveries are held for a long time"),
            f"a gate holds a delivery, and {percent(HELD_SHARE)} of its max_age has passed since its round began (Prometheus: of the "
            "default policy's max_age, since it was due, and not for a failing event type of a normal endpoint)",
            "when no held delivery is that old",
        ),
        Definition(
            *(AlertCondition.CLOCKS, "", "Clocks differ"),
            f"the clock of a sending machine differs from the store's by {MOST_APART_SECONDS:g} s",
            f"at {MOST_APART_SECONDS / 2:g} s",
        ),
        Definition(
            *(None, "ResonantDeliveriesOverdue", "Events arrive late"),
            f"a delivery is {OVERDUE / _MINUTE:g} minutes overdue although workers claim deliveries; twice as long after an outage "
            "of its endpoint",
        ),
        Definition(
            *(None, "ResonantExporterSilent", "Metrics are missing"),
            f"the metrics are more than {EXPORT_AGE / _MINUTE:g} minutes old",
        ),
        Definition(
            *(None, "ResonantMetricsAbsent", "Metrics are missing"),
            "Prometheus has had no metrics for a day",
        ),
    )


def percent(part: float) -> str:
    """Format a fraction as a percentage, without rounding."""
    return f"{100 * part:g}%"


class Key(NamedTuple):
    """Condition and endpoint of an alert; ``ALL_ENDPOINTS`` if the condition applies to the whole store."""

    condition: AlertCondition
    endpoint: str


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of evaluating a condition.

    Attributes:
        is_bad: None if there is not enough data, or if the value is between the thresholds. No alert then begins or ends.
        value: the measured value.
        threshold: the threshold that the value is compared with.
        text: describes both, without secrets and ids.
        is_measured: False if nothing was sent, so that the value does not show whether the failures go on.
    """

    key: Key
    is_bad: bool | None
    value: float
    threshold: float
    text: str
    is_measured: bool = True


@dataclass(frozen=True, slots=True)
class Crossing:
    """An alert that began or ended; times are seconds since the epoch.

    Attributes:
        since: the beginning of the window in which the condition was first bad.
    """

    what: Literal["raised", "recovered"]
    condition: AlertCondition
    endpoint: str
    value: float
    threshold: float
    text: str
    at: float
    since: float

    @property
    def key(self) -> Key:
        """The condition and endpoint."""
        return Key(self.condition, self.endpoint)

    @property
    def about(self) -> str | None:
        """The endpoint; None for all."""
        return None if self.endpoint == ALL_ENDPOINTS else self.endpoint

    @property
    def facts(self) -> dict[str, Any]:
        """The crossing as JSON values, for events."""
        return {
            "what": self.what,
            "condition": self.condition.value,
            "endpoint": self.endpoint,
            "value": self.value,
            "threshold": self.threshold,
            "text": self.text,
            "since": datetime.fromtimestamp(self.since, UTC).isoformat(),
        }


def crossings(
    findings: Iterable[Finding], raised_at: Mapping[Key, float], window: float, now: float
) -> list[Crossing]:
    """Return the alerts that begin or end now.

    Args:
        findings: the current findings.
        raised_at: when each raised alert began, seconds since the epoch.
        window: the window of the rates, in seconds.
    """
    return [
        Crossing(
            "raised" if finding.is_bad else "recovered",
            *finding.key,
            finding.value,
            finding.threshold,
            finding.text,
            at=now,
            since=raised_at.get(finding.key, now) - window,
        )
        for finding in findings
        if finding.is_bad is not None and finding.is_bad != (finding.key in raised_at)
    ]


def read_raised(connection: Connection) -> dict[Key, float]:
    """Return the raised alerts and their start times, in seconds since the epoch."""
    query = select(_t.c.condition, _t.c.endpoint, _t.c.raised_at).where(_t.c.raised_at.is_not(None))
    known = set(AlertCondition)  # a newer version may have stored others
    return {
        Key(AlertCondition(condition), endpoint): at
        for condition, endpoint, at in connection.execute(query)
        if condition in known
    }


def record_crossings(connection: Connection, crossings: Iterable[Crossing]) -> list[Crossing]:
    """Store crossings, with their announcements and own events; return them, without those that another process decided."""
    insert = insert_into(connection.dialect.name, _t)
    recorded = []
    for crossing in sorted(crossings, key=lambda each: each.key):
        condition, endpoint = crossing.key
        is_raised = crossing.what == "raised"
        if is_raised:
            connection.execute(insert.values(condition=condition, endpoint=endpoint).on_conflict_do_nothing())
        is_before = _t.c.raised_at.is_(None) if is_raised else _t.c.raised_at.is_not(None)
        new = {"raised_at": crossing.at if is_raised else None}
        if connection.execute(update(_t).where(_is(crossing.key), is_before).values(new)).rowcount:
            recorded.append(crossing)
            add_announcement(connection, event_of(crossing), now=crossing.at)
            _report(connection, crossing)
    return recorded


def event_of(crossing: Crossing) -> dict[str, Any]:
    """Return the Prefect event of a crossing, without its id."""
    name = EVENT_RAISED if crossing.what == "raised" else EVENT_RECOVERED
    return prefect_event(
        name, crossing.about, crossing.facts, at=crossing.at, condition=crossing.condition.value
    )


def _report(connection: Connection, crossing: Crossing) -> None:
    key = f"alert-{crossing.condition}-{crossing.about or 'all'}-{int(crossing.at * 1000)}"
    report = OwnEvent(key, crossing.about, crossing.facts, {"condition": crossing.condition.value})
    store_reports(connection, f"resonant.alert.{crossing.what}", [report], now=crossing.at)


def _is(key: Key) -> ColumnElement[bool]:
    return and_(_t.c.condition == key.condition, _t.c.endpoint == key.endpoint)


# With the default thresholds, which Prometheus and the docs use.
DEFINITIONS = definitions(Settings.model_construct())
