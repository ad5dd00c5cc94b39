"""A window's statistics as text tables, for the command line and the artifact, and the health of each endpoint."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, NamedTuple

from resonant.events import rfc3339
from resonant.metrics.alerts import ALL_ENDPOINTS
from resonant.metrics.conditions import Activity
from resonant.metrics.statistics import Attempts, Events
from resonant.store.shared.gates import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from resonant.metrics.alerts import Key
    from resonant.metrics.percentiles import Spread
    from resonant.metrics.statistics import Figures, Hour, Statistics
    from resonant.metrics.totals import Totals

NOT_COUNTED = "RESONANT_ROLLUPS is off: there are no counters, no histograms and no statistics"
# No endpoint can have this name.
EVERY_ENDPOINT = "(all)"
MOST_TYPES = 20
_NOTHING = "-"
_HOUR, _DAY = 3600, 86_400


class Table(NamedTuple):
    """A table.

    Attributes:
        title: a description of the rows.
        bars: indexes of the columns whose counts a terminal may also show as bars.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: tuple[int, ...] = ()


def summary(statistics: Statistics) -> str:
    """Summarise the success rate and the error rate on one line."""
    events, attempts = statistics.overall.events, statistics.overall.attempts
    if not (events.total or attempts.total):
        return f"nothing happened since {_moment(statistics.since)}"
    ended = events.success + events.dead_letter
    return (
        f"since {_moment(statistics.since)}: {percent(events.success_rate)} of {ended:,} ended events were delivered, "
        f"{events.unfinished:,} are unfinished; {percent(attempts.error_rate)} of {attempts.total:,} attempts failed"
    )


def tables(statistics: Statistics) -> Iterator[Table]:
    """Yield the tables that have rows."""
    overall = statistics.overall
    by_endpoint = {EVERY_ENDPOINT: overall} | statistics.by_endpoint
    every = (
        Table(
            "Events, each counted once regardless of retries",
            ("endpoint", "delivered", "dead letter", "permanent", "unfinished", "success rate"),
            tuple((name, *_events(figures)) for name, figures in by_endpoint.items()),
        ),
        Table(
            "Attempts, including retries",
            ("endpoint", "attempts", "failed", "error rate", "retries", "per event", "most"),
            tuple((name, *_attempts(figures)) for name, figures in by_endpoint.items()),
        ),
        *(Table(title, _SPREAD, _spreads(by_endpoint, of)) for title, of in _DURATIONS.items()),
        Table("By event type, most events first", _OF_TYPE, _types(statistics.by_event_type)),
        Table(
            "Failed attempts and dead letters, by kind",
            ("kind", "name", "count"),
            (
                *_counts("category", overall.error_categories),
                *_counts("code", overall.error_codes),
                *_counts("error type", overall.error_types),
                *_counts("dead-letter reason", overall.reasons),
            ),
            bars=(2,),
        ),
        Table(
            "By hour, in UTC",
            ("hour", "delivered", "dead", "attempts", "failed", "p50 ms", "p95 ms", "p99 ms"),
            tuple(_hour(hour) for hour in statistics.hourly),
            bars=(1, 2),
        ),
    )
    return (table for table in every if table.rows)


_OF_TYPE = ("event type", "delivered", "dead", "unfinished", "attempts", "failed", "p95 ms")
_DURATIONS = {
    "Duration of an attempt, in ms": "latency",
    "Time from acceptance to delivery, in ms": "end_to_end",
    "Time from acceptance to the first attempt, in ms": "first_attempt",
}
_SPREAD = ("endpoint", "min", "avg", "p50", "p95", "p99", "max")


def _events(figures: Figures) -> tuple[str, ...]:
    events = figures.events
    counts = (events.success, events.dead_letter, events.failed, events.unfinished)
    return (*(f"{count:,}" for count in counts), percent(events.success_rate))


def by_most_events(by_name: Mapping[str, Figures]) -> list[tuple[str, Figures]]:
    """Return names and figures, most events first."""
    return sorted(by_name.items(), key=lambda item: (-item[1].events.total, -item[1].attempts.total, item[0]))


def _types(by_type: Mapping[str, Figures]) -> tuple[tuple[str, ...], ...]:
    ranked = by_most_events(by_type)
    rows = [
        (name, *_type(figures.events, figures.attempts), _milliseconds(figures.latency.p95))
        for name, figures in ranked[:MOST_TYPES]
    ]
    if others := [figures for _, figures in ranked[MOST_TYPES:]]:
        events = (each.events for each in others)
        attempts = (each.attempts for each in others)
        summed = _type(
            Events(*map(sum, zip(*map(astuple, events), strict=True))),
            Attempts(*map(sum, zip(*map(astuple, attempts), strict=True))),
        )
        # Percentiles cannot be added.
        rows.append((f"{len(others):,} {'other' if len(others) == 1 else 'others'}", *summed, _NOTHING))
    return tuple(rows)


def _type(events: Events, attempts: Attempts) -> tuple[str, ...]:
    counts = (events.success, events.dead_letter, events.unfinished, attempts.total, attempts.failed)
    return tuple(f"{count:,}" for count in counts)


def _attempts(figures: Figures) -> tuple[str, ...]:
    attempts, retries = figures.attempts, figures.retries
    return (
        f"{attempts.total:,}",
        f"{attempts.failed:,}",
        percent(attempts.error_rate),
        f"{retries.total:,}",
        _NOTHING if retries.avg is None else f"{retries.avg:.2f}",
        _NOTHING if retries.max is None else f"{retries.max:,}",
    )


def _spreads(by_endpoint: Mapping[str, Figures], durations: str) -> tuple[tuple[str, ...], ...]:
    spreads: dict[str, Spread] = {name: getattr(each, durations) for name, each in by_endpoint.items()}
    return tuple(
        (name, *map(_milliseconds, astuple(each))) for name, each in spreads.items() if each.max is not None
    )


def _hour(hour: Hour) -> tuple[str, ...]:
    events, attempts, latency = hour.figures.events, hour.figures.attempts, hour.figures.latency
    counts = (events.success, events.dead_letter, attempts.total, attempts.failed)
    percentiles = map(_milliseconds, (latency.p50, latency.p95, latency.p99))
    return (_moment(hour.start), *(f"{count:,}" for count in counts), *percentiles)


def _counts(kind: str, counts: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    return ((kind, name, f"{count:,}") for name, count in counts.items())


def health_lines(
    totals: Totals, activity: Mapping[str, Activity] | None, raised: Iterable[Key]
) -> Iterator[tuple[str, str]]:
    """Yield each endpoint's name and health, endpoints with alerts first; then store-wide alerts, without a name.

    Args:
        totals: counters and gauges.
        activity: recent counts by endpoint; None if counting is off.
        raised: the active alerts.
    """
    alerts: dict[str, list[str]] = {}
    for key in sorted(raised):
        alerts.setdefault(key.endpoint, []).append(key.condition.value)
    for name in sorted(totals.endpoints, key=lambda each: (each not in alerts, each)):
        gate = totals.gates.get(name) or Gate(name)
        parts: list[str] = [gate.state]
        if activity is not None:
            parts.append(_error_rate(activity.get(name, Activity())))
        dead_at = totals.oldest_dead_at.get(name)
        age = None if dead_at is None else _age(totals.taken_at - dead_at)
        parts.append(f"oldest dead letter {age} old" if age else "no dead letter")
        if active := alerts.get(name):
            parts.insert(0, f"ALERT {', '.join(active)}")
        yield name, "; ".join(parts)
    if active := alerts.get(ALL_ENDPOINTS):
        yield "", f"ALERT {', '.join(active)}"


def _error_rate(activity: Activity) -> str:
    if not activity.timed:
        return "no attempt in the last hour"
    text = f"{percent(activity.timed_failed / activity.timed)} of attempts failed in the last hour"
    if not activity.timed_before:
        return text
    return f"{text}, {percent(activity.timed_failed_before / activity.timed_before)} a day before"


def _age(seconds: float) -> str:
    return f"{seconds / _HOUR:.0f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"


def percent(part: float | None) -> str:
    """Format a fraction as a percentage; ``-`` for None."""
    return _NOTHING if part is None else f"{100 * part:.2f} %"


def _milliseconds(seconds: float | None) -> str:
    return _NOTHING if seconds is None else f"{1000 * seconds:,.1f}"


def _moment(seconds: float) -> str:
    return f"{rfc3339(seconds)[:16].replace('T', ' ')}Z"
