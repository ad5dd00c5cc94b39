"""Evaluates the conditions of alerts from the counted rates and the deliveries in the store.

An alert needs a minimum number of attempts to begin. The error-rate alert also needs attempts to end, because its end can
start a replay: an endpoint has recovered when it delivers, not when attempts stop. The other alerts end when fewer than
half of that minimum remain.

Rates exclude lost attempts: their results are unknown, and the worker was at fault. Cancelled deliveries are not counted
as dead letters: the operator knows about them.

A gate raises none of these alerts by itself: deliveries held by a gate do not count as overdue, and the share of retries
excludes endpoints that get only probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resonant.metrics.alerts import ALL_ENDPOINTS, Condition, Finding, Key
from resonant.metrics.gate_conditions import gets_only_probes, of_gate, overdue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from resonant.metrics.totals import Totals
    from resonant.settings import Thresholds

_HOUR = 3600
# An alert ends at this share of its threshold. Otherwise it would flap around the threshold, and each end of an error-rate
# alert can start a replay.
_END = 0.5


@dataclass(frozen=True, slots=True)
class Activity:
    """The recent counts of one endpoint.

    Attributes:
        attempts, failed, retried: counts in the window, without lost attempts.
        dead_letters: new dead letters of the last hour, less replays and cancelled deliveries.
        timed, seconds: attempts of the last hour that were answered or failed, and their total duration.
        timed_failed: the number of failures among ``timed``.
        timed_before, seconds_before, timed_failed_before: the same for that hour of the day before.
    """

    attempts: int = 0
    failed: int = 0
    retried: int = 0
    dead_letters: int = 0
    timed: int = 0
    seconds: float = 0.0
    timed_before: int = 0
    seconds_before: float = 0.0
    timed_failed: int = 0
    timed_failed_before: int = 0


def evaluate(
    totals: Totals,
    activity: Mapping[str, Activity] | None,
    thresholds: Thresholds,
    now: float,
    max_ages: Mapping[tuple[str, str | None], float],
) -> list[Finding]:
    """Evaluate every condition of every endpoint for which an event was ever accepted.

    Args:
        totals: counters and gauges.
        activity: recent counts by endpoint; a missing endpoint had no activity. None if counting is off: conditions that need
            counts are then not evaluated, so their alerts neither begin nor end.
        thresholds: the limit of each condition.
        now: seconds since the epoch.
        max_ages: ``max_age`` in seconds, keyed by (endpoint, policy requested by the producer). The age of deliveries with
            other keys is not evaluated.
    """
    found: list[Finding | None] = []
    if activity is not None:
        # Excludes probes: they are few, and a retry follows nearly every one.
        sent = [each for name, each in activity.items() if not gets_only_probes(totals.gates.get(name))]
        found.append(_retries(sent, thresholds))
    for endpoint in totals.endpoints:
        if activity is not None:
            found += _of_counts(endpoint, activity.get(endpoint, Activity()), thresholds)
        found += _of_rows(endpoint, totals, thresholds, now)
        found += of_gate(endpoint, totals, thresholds, now, max_ages)
    return [finding for finding in found if finding]


def _of_counts(endpoint: str, activity: Activity, thresholds: Thresholds) -> Iterator[Finding | None]:
    yield _error_rate(endpoint, activity, thresholds)
    yield _dead_letters(endpoint, activity, thresholds)
    yield _latency(endpoint, activity, thresholds)


def _of_rows(endpoint: str, totals: Totals, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """Evaluate the conditions that need no counts."""
    yield _dead_letter_age(endpoint, now - totals.oldest_dead_at.get(endpoint, now), thresholds)
    yield _drain_silent(
        endpoint,
        overdue(totals.gates.get(endpoint), totals.oldest_due_at.get(endpoint), now),
        now - totals.last_seen_at.get(endpoint, 0.0),
        thresholds,
    )


def _error_rate(endpoint: str, activity: Activity, thresholds: Thresholds) -> Finding | None:
    if not activity.attempts:
        return None
    value = activity.failed / activity.attempts
    is_bad = _is_above(value, thresholds.error_rate)
    if is_bad is None or (is_bad and activity.attempts < thresholds.min_attempts):
        return None
    minutes = f"{thresholds.window / 60:g} minutes"
    return Finding(
        Key(Condition.ERROR_RATE, endpoint),
        is_bad,
        value,
        thresholds.error_rate,
        f"{endpoint}: {value:.0%} of {activity.attempts} attempts in {minutes} failed, "
        f"the limit is {thresholds.error_rate:.0%}",
    )


def _dead_letters(endpoint: str, activity: Activity, thresholds: Thresholds) -> Finding | None:
    value = max(0, activity.dead_letters)
    is_bad = _has_reached(value, thresholds.dead_letters)
    if is_bad is None:
        return None
    return Finding(
        Key(Condition.DEAD_LETTERS, endpoint),
        is_bad,
        value,
        thresholds.dead_letters,
        f"{endpoint}: {value} more dead letters in an hour; an alert begins at {thresholds.dead_letters}",
    )


def _dead_letter_age(endpoint: str, age: float, thresholds: Thresholds) -> Finding:
    hours, limit = age / _HOUR, thresholds.dead_letter_age / _HOUR
    return Finding(
        Key(Condition.DEAD_LETTER_AGE, endpoint),
        age > thresholds.dead_letter_age,
        age,
        thresholds.dead_letter_age,
        f"{endpoint}: the oldest dead letter has waited {hours:.0f} hours, the limit is {limit:g}",
    )


def _latency(endpoint: str, activity: Activity, thresholds: Thresholds) -> Finding | None:
    mean = activity.seconds / activity.timed if activity.timed else 0.0
    before = activity.seconds_before / activity.timed_before if activity.timed_before else 0.0
    value = mean / before if before else 0.0
    is_bad = _all(
        _has_reached(min(activity.timed, activity.timed_before), thresholds.many_attempts),
        _is_above(value, thresholds.latency_factor, normal=1.0),
        _is_above(mean - before, thresholds.felt_latency),
    )
    if is_bad is None:
        return None
    return Finding(
        Key(Condition.LATENCY, endpoint),
        is_bad,
        value,
        thresholds.latency_factor,
        f"{endpoint}: an attempt takes {mean * 1000:.0f} ms, compared with {before * 1000:.0f} ms in the same hour of the day "
        f"before; the limit is {thresholds.latency_factor:g} times as long",
    )


def _drain_silent(endpoint: str, late: float, silent: float, thresholds: Thresholds) -> Finding:
    limit = thresholds.silence
    return Finding(
        Key(Condition.DRAIN_SILENT, endpoint),
        late > limit and silent > limit,
        late,
        limit,
        f"{endpoint}: a delivery is {max(0.0, late) / 60:.0f} minutes overdue; the limit without a claim "
        f"is {limit / 60:g}",
    )


def _retries(activities: list[Activity], thresholds: Thresholds) -> Finding | None:
    attempts = sum(each.attempts for each in activities)
    value = sum(each.retried for each in activities) / attempts if attempts else 0.0
    is_bad = _all(_has_reached(attempts, thresholds.many_attempts), _is_above(value, thresholds.retries))
    if is_bad is None:
        return None
    return Finding(
        Key(Condition.RETRIES, ALL_ENDPOINTS),
        is_bad,
        value,
        thresholds.retries,
        f"{value:.0%} of {attempts} attempts in {thresholds.window / 60:g} minutes were followed by a retry, "
        f"the limit is {thresholds.retries:.0%}",
    )


def _is_above(value: float, limit: float, *, normal: float = 0.0) -> bool | None:
    """Return whether a rate is above its limit; None in between, where no alert begins or ends."""
    if value > limit:
        return True
    return None if value > normal + (limit - normal) * _END else False


def _has_reached(count: int, limit: int) -> bool | None:
    """Return whether a count has reached its limit; None in between, where no alert begins or ends."""
    if count >= limit:
        return True
    return None if count > limit * _END else False


def _all(*said: bool | None) -> bool | None:
    """Return False if any is False, else None if any is None, else True."""
    if False in said:
        return False
    return None if None in said else True
