"""One line of health for each endpoint, at the top of the metrics artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.metrics.alerts import ALL_ENDPOINTS
from resonant.metrics.conditions import Activity
from resonant.metrics.report import percent
from resonant.store.gates import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from resonant.metrics.alerts import Key
    from resonant.metrics.totals import Totals

_HOUR, _DAY = 3600, 86_400


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
        parts.append(
            "no dead letter"
            if dead_at is None
            else f"oldest dead letter {_age(totals.taken_at - dead_at)} old"
        )
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
