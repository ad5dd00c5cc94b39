"""A window's statistics as text tables, for the command line and the artifact, and the health of each endpoint."""

from collections.abc import Iterable, Iterator, Mapping
from math import isnan, nan
from typing import NamedTuple

from pandas import DataFrame, concat

from resonant.display import duration
from resonant.events import minute
from resonant.metrics.alerts import ALL_ENDPOINTS, Key
from resonant.metrics.conditions import Activity
from resonant.metrics.percentiles import SPREAD
from resonant.metrics.statistics import Statistics
from resonant.metrics.totals import Totals
from resonant.store.shared.gates import Gate

MOST_TYPES = 20
_NOTHING = "-"


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
    [of] = statistics.overall.to_dict("records")
    if not (of["events"] or of["attempts"]):
        return f"nothing happened since {minute(statistics.since)}"
    return (
        f"since {minute(statistics.since)}: {percent(of['success_rate'])} of {of['success'] + of['dead_letter']:,} ended "
        f"events were delivered, {of['unfinished']:,} are unfinished; {percent(of['error_rate'])} of {of['attempts']:,} "
        "attempts failed"
    )


def tables(statistics: Statistics) -> Iterator[Table]:
    """Yield the tables that have rows."""
    endpoints = concat([statistics.overall, statistics.by_endpoint])
    every = (
        _table("Events, each counted once regardless of retries", "endpoint", endpoints, _EVENTS),
        _table("Attempts, including retries", "endpoint", endpoints, _ATTEMPTS),
        *(
            _table(title, "endpoint", endpoints[endpoints[f"{name}_max"].notna()], _spread(name))
            for title, name in _DURATIONS.items()
        ),
        _table("By event type, most events first", "event type", _most(statistics.by_event_type), _OF_TYPE),
        Table(
            "Failed attempts and dead letters, by kind",
            ("kind", "name", "count"),
            tuple(
                (title, name, f"{count:,}")
                for kind, title in _KINDS.items()
                for name, count in statistics.count(kind).items()
            ),
            bars=(2,),
        ),
        _table("By hour, in UTC", "hour", statistics.hourly.rename(minute), _OF_HOUR, bars=(1, 2)),
    )
    return (table for table in every if table.rows)


# The columns of the tables by their headers.
_EVENTS = {
    "delivered": "success",
    "dead letter": "dead_letter",
    "permanent": "failed",
    "unfinished": "unfinished",
    "success rate": "success_rate",
}
_ATTEMPTS = {
    "attempts": "attempts",
    "failed": "failed_attempts",
    "error rate": "error_rate",
    "retries": "retries",
    "per event": "retries_avg",
    "most": "retries_max",
}
_OF_TYPE = {
    "delivered": "success",
    "dead": "dead_letter",
    "unfinished": "unfinished",
    "attempts": "attempts",
    "failed": "failed_attempts",
    "p95 ms": "latency_p95",
}
_OF_HOUR = {
    "delivered": "success",
    "dead": "dead_letter",
    "attempts": "attempts",
    "failed": "failed_attempts",
    "p50 ms": "latency_p50",
    "p95 ms": "latency_p95",
    "p99 ms": "latency_p99",
}
_DURATIONS = {
    "Duration of an attempt, in ms": "latency",
    "Time from acceptance to delivery, in ms": "end_to_end",
    "Time from acceptance to the first attempt, in ms": "first_attempt",
}
_KINDS = {
    "category": "category",
    "code": "code",
    "error_type": "error type",
    "reason": "dead-letter reason",
}


def _spread(name: str) -> dict[str, str]:
    return {each: f"{name}_{each}" for each in SPREAD}


def _table(
    title: str, of: str, rows: DataFrame, columns: Mapping[str, str], bars: tuple[int, ...] = ()
) -> Table:
    """Return a table with the index of some rows and these columns of them, by their headers."""
    cells = [[_cell(column, value) for value in rows[column]] for column in columns.values()]
    return Table(title, (of, *columns), tuple(zip(map(str, rows.index), *cells, strict=True)), bars)


def _cell(column: str, value: float) -> str:
    if isnan(value):
        return _NOTHING
    if column.endswith("_rate"):
        return percent(value)
    if column.startswith(("latency_", "end_to_end_", "first_attempt_")):
        return f"{1000 * value:,.1f}"
    return f"{value:.2f}" if column == "retries_avg" else f"{value:,.0f}"


def by_most_events(by_type: DataFrame) -> DataFrame:
    """Return the rows with the most events first."""
    return by_type.sort_values(["events", "attempts"], ascending=False, kind="stable")


def _most(by_type: DataFrame) -> DataFrame:
    """Return the event types with the most events, and one row for all others."""
    ranked = by_most_events(by_type)
    others = ranked[MOST_TYPES:]
    if others.empty:
        return ranked
    summed = others[list(_OF_TYPE.values())].sum()
    summed["latency_p95"] = nan  # percentiles cannot be added
    name = f"{len(others):,} {'other' if len(others) == 1 else 'others'}"
    return concat([ranked[:MOST_TYPES], summed.to_frame(name).T])


def health_lines(
    totals: Totals, activity: Mapping[str, Activity], raised: Iterable[Key]
) -> Iterator[tuple[str, str]]:
    """Yield each endpoint's name and health, endpoints with alerts first; then store-wide alerts, without a name.

    Args:
        activity: recent counts by endpoint.
    """
    alerts: dict[str, list[str]] = {}
    for key in sorted(raised):
        alerts.setdefault(key.endpoint, []).append(key.condition.value)
    for name in sorted(totals.endpoints, key=lambda each: (each not in alerts, each)):
        gate = totals.gates.get(name) or Gate(name)
        parts = [gate.state, _error_rate(activity.get(name, Activity()))]
        dead_at = totals.oldest_dead_at.get(name)
        age = None if dead_at is None else duration(totals.taken_at - dead_at)
        parts.append(f"oldest dead letter {age} old" if age else "no open dead letter")
        if active := alerts.get(name):
            parts.insert(0, f"ALERT {', '.join(active)}")
        yield name, "; ".join(parts)
    if active := alerts.get(ALL_ENDPOINTS):
        yield "", f"ALERT {', '.join(active)}"


def _error_rate(activity: Activity) -> str:
    hour, before = activity.hour, activity.before
    if not hour.attempts:
        return "no attempt in the last hour"
    text = f"{percent(hour.failed / hour.attempts)} of attempts failed in the last hour"
    return f"{text}, {percent(before.failed / before.attempts)} a day before" if before.attempts else text


def percent(part: float) -> str:
    """Format a fraction as a percentage; ``-`` for NaN."""
    return _NOTHING if isnan(part) else f"{100 * part:.2f} %"
