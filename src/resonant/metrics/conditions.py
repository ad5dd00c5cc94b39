"""Judges the conditions of alerts: the rates that were counted, and what waits in the store.

An alert needs a minimum number of attempts to begin. The error-rate alert also needs attempts to end, because its end can
start a replay: an endpoint has recovered when it delivers, not when attempts stop. The other alerts end when fewer than
half of that minimum remain.

Lost attempts are in no rate: their results are unknown, and the worker was at fault. Cancelled deliveries are not counted
as dead letters: the operator knows about them.

What a gate holds is not the drain's silence, and the probes of an endpoint that is down are not the retries that dominate.
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
# Of fewer attempts in an hour a mean, and of fewer in a window the share of retries, is chance.
_MANY_ATTEMPTS = 100
# Seconds. From 5 ms to 12 ms is nobody's trouble.
_FELT_LATENCY = 0.1
# Around the threshold itself an alert would come and go, and each time an error rate goes a replay may begin.
_END = 0.5


@dataclass(frozen=True, slots=True)
class Activity:
    """What was counted of one endpoint lately.

    Attributes:
        attempts, failed, retried: in the window, without lost ones.
        dead_letters: in the last hour, less replays, and without what an operator cancelled.
        timed, seconds: attempts of the last hour that were answered or failed, and how long all of them took.
        timed_before, seconds_before: in the same hour of the day before.
    """

    attempts: int = 0
    failed: int = 0
    retried: int = 0
    dead_letters: int = 0
    timed: int = 0
    seconds: float = 0.0
    timed_before: int = 0
    seconds_before: float = 0.0


def evaluate(
    totals: Totals,
    activity: Mapping[str, Activity] | None,
    thresholds: Thresholds,
    now: float,
    max_ages: Mapping[tuple[str, str | None], float],
) -> list[Finding]:
    """Judge every condition of every endpoint that has ever accepted an event.

    Args:
        totals: counters and gauges.
        activity: by endpoint; one that is missing was quiet. None if nothing is counted: conditions that need counts are
            not judged then, and begin and end nothing.
        thresholds: where each becomes bad.
        now: seconds since the epoch.
        max_ages: how long a round lasts, in seconds, by endpoint and the policy that the producer asked for. Deliveries
            whose policy is missing here are not judged by it.
    """
    found: list[Finding | None] = []
    if activity is not None:
        # Almost every probe leads to another, and they are few.
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
    """Judge what can be seen without anything being counted."""
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
        f"{endpoint}: {value} more dead letters in an hour, fewer than {thresholds.dead_letters} are normal",
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
        _has_reached(min(activity.timed, activity.timed_before), _MANY_ATTEMPTS),
        _is_above(value, thresholds.latency_factor, normal=1.0),
        _is_above(mean - before, _FELT_LATENCY),
    )
    if is_bad is None:
        return None
    return Finding(
        Key(Condition.LATENCY, endpoint),
        is_bad,
        value,
        thresholds.latency_factor,
        f"{endpoint}: an attempt takes {mean * 1000:.0f} ms, in the same hour of the day before {before * 1000:.0f} ms; "
        f"the limit is {thresholds.latency_factor:g} times",
    )


def _drain_silent(endpoint: str, late: float, silent: float, thresholds: Thresholds) -> Finding:
    limit = thresholds.silence
    return Finding(
        Key(Condition.DRAIN_SILENT, endpoint),
        late > limit and silent > limit,
        late,
        limit,
        f"{endpoint}: a delivery is {max(0.0, late) / 60:.0f} minutes overdue, the limit without a claim "
        f"is {limit / 60:g}",
    )


def _retries(activities: list[Activity], thresholds: Thresholds) -> Finding | None:
    attempts = sum(each.attempts for each in activities)
    value = sum(each.retried for each in activities) / attempts if attempts else 0.0
    is_bad = _all(_has_reached(attempts, _MANY_ATTEMPTS), _is_above(value, thresholds.retries))
    if is_bad is None:
        return None
    return Finding(
        Key(Condition.RETRIES, ALL_ENDPOINTS),
        is_bad,
        value,
        thresholds.retries,
        f"{value:.0%} of {attempts} attempts in {thresholds.window / 60:g} minutes only led to another, "
        f"the limit is {thresholds.retries:.0%}",
    )


def _is_above(value: float, limit: float, *, normal: float = 0.0) -> bool | None:
    """Tell whether a rate is above its limit; None on the way back to normal, where nothing begins or ends."""
    if value > limit:
        return True
    return None if value > normal + (limit - normal) * _END else False


def _has_reached(count: int, limit: int) -> bool | None:
    """Tell whether a count has reached its limit; None above half of it, where nothing begins or ends."""
    if count >= limit:
        return True
    return None if count > limit * _END else False


def _all(*said: bool | None) -> bool | None:
    """Tell whether all are so: one that is not decides, and else one that says nothing."""
    if False in said:
        return False
    return None if None in said else True
