"""Evaluates the conditions of alerts from the recent activity, the deliveries in the store and the gates.

An alert needs a minimum number of attempts to begin. The error-rate alert also needs attempts to end, because its end can
start a replay: an endpoint has recovered when it delivers, not when attempts stop. The other alerts end when fewer than
half of that minimum remain.

Rates exclude lost attempts: their results are unknown, and the worker was at fault. Cancelled deliveries and acknowledged causes
are not counted as dead letters: the operator knows about them.

A gate raises none of the other alerts by itself: deliveries held by a gate do not count as overdue, and the share of retries
excludes endpoints that get only probes.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, func, select

from resonant.display import counted, some
from resonant.metrics.alerts import (
    ALL_ENDPOINTS,
    FELT_LATENCY,
    HELD_SHARE,
    MANY_ATTEMPTS,
    AlertCondition,
    Finding,
    Key,
    definitions,
)
from resonant.metrics.totals import Totals, read_totals
from resonant.settings import Settings
from resonant.store import schema
from resonant.store.counts.counters import Count, Measure, read_counts
from resonant.store.counts.sketches import begin_of
from resonant.store.engine.clock import MOST_APART_SECONDS
from resonant.store.engine.sql import is_any_of
from resonant.store.shared.acknowledgements import read_acknowledged
from resonant.store.shared.gates import Gate

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_COUNTED: tuple[Measure, ...] = ("attempt", "delay", "delivery", "replay")
# An alert ends at this share of its threshold. Otherwise it would flap around the threshold, and each end of an error-rate
# alert can start a replay.
_END = 0.5
# Seconds. An endpoint that has been paced for less time has not recovered.
_SETTLED = 60.0
# The most failing types that a text names.
_MOST_TYPES = 3


@dataclass(slots=True)
class WindowCounts:
    """The counts of one endpoint and window.

    Attributes:
        attempts, failed: attempts that were answered or failed, and the failures among them.
        seconds: the total duration of these attempts.
        retried: attempts that were followed by a retry.
        dead_letters: new dead letters, less replays.
    """

    attempts: int = 0
    failed: int = 0
    seconds: float = 0.0
    retried: int = 0
    dead_letters: int = 0

    def add(self, count: Count) -> None:
        """Add a number of occurrences."""
        match count.labels.measure, count.labels.result:
            case "attempt", "delivered" | "failed" as result:  # the result of a lost attempt is unknown
                self.attempts += count.number
                self.failed += count.number * (result == "failed")
                self.seconds += count.seconds
            case "delay", _:
                self.retried += count.number
            case "delivery", "dead_letter":
                self.dead_letters += count.number
            case "replay", _:
                self.dead_letters -= count.number


@dataclass(frozen=True, slots=True)
class Activity:
    """The recent counts of one endpoint.

    Attributes:
        window: of the window of the error rate and the share of retries.
        hour: of the last hour; its dead letters exclude cancelled deliveries and acknowledged causes.
        before: of that hour of the day before.
    """

    window: WindowCounts = field(default_factory=WindowCounts)
    hour: WindowCounts = field(default_factory=WindowCounts)
    before: WindowCounts = field(default_factory=WindowCounts)


def read_activity(connection: Connection, *, now: float, window: float) -> dict[str, Activity]:
    """Count the recent activity of each endpoint.

    Since minutes are merged into hours after an hour, a window longer than that begins with an hour, and the hour of the day
    before is the nearest full hour.

    Args:
        connection: in a transaction.
        window: the window of attempts and retries, in seconds.
    """
    window_begin, hour_begin = begin_of(now - window, now=now), begin_of(now - _HOUR, now=now)
    before_begin = round((now - _DAY - _HOUR) / _HOUR) * _HOUR
    found: defaultdict[str, Activity] = defaultdict(Activity)
    for each in read_counts(connection, _COUNTED, since=min(window_begin, hour_begin)):
        activity = found[each.labels.endpoint]
        if each.minute >= window_begin:
            activity.window.add(each)
        if each.minute >= hour_begin:
            activity.hour.add(each)
    for each in read_counts(connection, _COUNTED, since=before_begin, until=before_begin + _HOUR - 1):
        found[each.labels.endpoint].before.add(each)
    given_up = _read_given_up(connection, since=hour_begin)
    for endpoint, activity in found.items():
        activity.hour.dead_letters = min(activity.hour.dead_letters, given_up.get(endpoint, 0))
    return dict(found)


def _read_given_up(connection: Connection, *, since: int) -> dict[str, int]:
    """Count the dead letters given up since this time, by endpoint, without cancelled ones and acknowledged causes.

    This is an upper bound for the counters, which include these. It is not sufficient alone: a replayed delivery
    that fails again would count as new.
    """
    d, causes = schema.deliveries.c, schema.causes.c
    query = (
        select(causes.endpoint, func.count())
        .join_from(schema.deliveries, schema.causes, causes.id == d.cause_id)
        .where(schema.is_dead_letter, d.finished_at >= since, causes.reason != "cancelled")
        .group_by(causes.endpoint)
    )
    if acknowledged := read_acknowledged(connection):
        query = query.where(~is_any_of(causes.fingerprint, list(acknowledged)))
    return {row[0]: row[1] for row in connection.execute(query)}


def evaluate(
    totals: Totals,
    activity: Mapping[str, Activity],
    settings: Settings,
    now: float,
    max_ages: Mapping[tuple[str, str | None], float],
) -> list[Finding]:
    """Evaluate every condition of every endpoint for which an event was ever accepted.

    Args:
        activity: recent counts by endpoint; a missing endpoint had no activity.
        settings: provide the limits of the conditions.
        max_ages: ``max_age`` in seconds, keyed by (endpoint, policy requested by the producer). The age of deliveries with
            other keys is not evaluated.
    """
    # Excludes probes: they are few, and a retry follows nearly every one.
    sent = [each.window for name, each in activity.items() if not _gets_only_probes(totals.gates.get(name))]
    found = [_retries(sent, settings), _clocks(totals)]
    for endpoint in totals.endpoints:
        gate = totals.gates.get(endpoint) or Gate(endpoint)
        counts = activity.get(endpoint, Activity())
        found += [
            _error_rate(endpoint, counts.window, settings),
            _dead_letters(endpoint, counts.hour, settings),
            _latency(endpoint, counts, settings),
            _dead_letter_age(endpoint, now - totals.oldest_dead_at.get(endpoint, now), settings),
            _drain_silent(gate, totals, settings, now),
            _probing(gate, totals, settings, now),
            _failing_types(gate, settings, now),
            _gone(gate, totals.held.get(endpoint, 0), now),
            _held(gate, totals, now, max_ages),
        ]
    return found


def describe(
    connection: Connection, raised: Collection[Key], settings: Settings, *, now: float
) -> dict[Key, Finding]:
    """Return the current finding of each active alert, whose text does not name the endpoint.

    If the number is unknown, the text has only the threshold.

    Args:
        settings: provide the limits of the conditions.
    """
    begins = {each.condition: each.begins for each in definitions(settings)}
    activity = read_activity(connection, now=now, window=settings.alert_window_seconds)
    found = evaluate(read_totals(connection, now=now), activity, settings, now, {})
    # The max_age of held deliveries is part of the policies, which the store does not have.
    current = {
        each.key: replace(each, text=each.text.removeprefix(f"{each.key.endpoint}: "))
        for each in found
        if each.key.condition is not AlertCondition.HELD
    }
    return {key: current.get(key) or Finding(key, None, 0.0, 0.0, begins[key.condition]) for key in raised}


def _error_rate(endpoint: str, counts: WindowCounts, settings: Settings) -> Finding:
    value, limit = _part(counts.failed, counts.attempts), settings.alert_error_rate
    is_bad = _is_above(value, limit)
    if counts.attempts < (settings.alert_min_attempts if is_bad else 1):
        is_bad = None
    share = f"{value:.0%} of {counts.attempts} attempts in {settings.alert_window_minutes:g} minutes"
    text = f"{endpoint}: {share} failed, the limit is {limit:.0%}"
    key = Key(AlertCondition.ERROR_RATE, endpoint)
    return Finding(key, is_bad, value, limit, text, is_measured=counts.attempts > 0)


def _dead_letters(endpoint: str, counts: WindowCounts, settings: Settings) -> Finding:
    value, limit = max(0, counts.dead_letters), settings.alert_dead_letters_per_hour
    text = f"{endpoint}: {counted(value, 'more dead letter')} in an hour; an alert begins at {limit}"
    return Finding(Key(AlertCondition.DEAD_LETTERS, endpoint), _has_reached(value, limit), value, limit, text)


def _dead_letter_age(endpoint: str, age: float, settings: Settings) -> Finding:
    limit = settings.alert_dead_letter_age_hours * _HOUR
    text = f"{endpoint}: the oldest dead letter has waited {age / _HOUR:.0f} hours, the limit is {limit / _HOUR:g}"
    return Finding(Key(AlertCondition.DEAD_LETTER_AGE, endpoint), age > limit, age, limit, text)


def _latency(endpoint: str, activity: Activity, settings: Settings) -> Finding:
    mean = _part(activity.hour.seconds, activity.hour.attempts)
    before = _part(activity.before.seconds, activity.before.attempts)
    value, limit = _part(mean, before), settings.alert_latency_factor
    is_bad = _all(
        _has_reached(min(activity.hour.attempts, activity.before.attempts), MANY_ATTEMPTS),
        _is_above(value, limit, normal=1.0),
        _is_above(mean - before, FELT_LATENCY),
    )
    text = (
        f"{endpoint}: an attempt takes {mean * 1000:.0f} ms, compared with {before * 1000:.0f} ms in the same hour of the day "
        f"before; the limit is {limit:g} times as long"
    )
    return Finding(Key(AlertCondition.LATENCY, endpoint), is_bad, value, limit, text)


def _drain_silent(gate: Gate, totals: Totals, settings: Settings, now: float) -> Finding:
    limit = settings.alert_silence_minutes * _MINUTE
    silent = now - totals.last_seen_at.get(gate.endpoint, 0.0)
    late = 0.0
    due_at = totals.oldest_due_at.get(gate.endpoint)
    if due_at is not None and gate.state != "paused":
        # Excludes the time in which the gate held the delivery.
        late = max(0.0, now - max(due_at, gate.since, gate.not_before or 0.0, gate.probe_at or 0.0))
    is_bad = late > limit and silent > limit
    overdue = f"a delivery is {late / _MINUTE:.0f} minutes overdue"
    text = f"{gate.endpoint}: {overdue}; the limit without a claim is {limit / _MINUTE:g}"
    return Finding(Key(AlertCondition.DRAIN_SILENT, gate.endpoint), is_bad, late, limit, text)


def _retries(sent: list[WindowCounts], settings: Settings) -> Finding:
    attempts = sum(each.attempts for each in sent)
    value, limit = _part(sum(each.retried for each in sent), attempts), settings.alert_retry_share
    is_bad = _all(_has_reached(attempts, MANY_ATTEMPTS), _is_above(value, limit))
    share = f"{value:.0%} of {attempts} attempts in {settings.alert_window_minutes:g} minutes"
    text = f"{share} were followed by a retry, the limit is {limit:.0%}"
    key = Key(AlertCondition.RETRIES, ALL_ENDPOINTS)
    return Finding(key, is_bad, value, limit, text, is_measured=attempts > 0)


def _clocks(totals: Totals) -> Finding:
    ahead = totals.clock_ahead
    differs = f"the clock of a sending machine differs from the store's by {abs(ahead):.0f} s"
    text = f"{differs}; the limit is {MOST_APART_SECONDS:g} s"
    key, is_bad = Key(AlertCondition.CLOCKS, ALL_ENDPOINTS), _is_above(abs(ahead), MOST_APART_SECONDS)
    return Finding(key, is_bad, abs(ahead), MOST_APART_SECONDS, text)


def _probing(gate: Gate, totals: Totals, settings: Settings, now: float) -> Finding:
    limit = settings.alert_probing_minutes * _MINUTE
    down = 0.0
    text = f"it is not down, its gate is {gate.state}"
    if gate.state == "probing":
        text = "no delivery is waiting, so the next one is the probe"
        if any(totals.deliveries.get((gate.endpoint, status)) for status in ("pending", "retrying")):
            down = now - gate.down_since
            text = (
                f"it has been down for {down / _MINUTE:.0f} minutes and gets only probes, "
                f"the limit is {limit / _MINUTE:g}"
            )
    is_settling = gate.state == "paced" and now - gate.since < _SETTLED
    is_bad = None if is_settling else down > limit
    return Finding(
        Key(AlertCondition.PROBING, gate.endpoint), is_bad, down, limit, f"{gate.endpoint}: {text}"
    )


def _failing_types(gate: Gate, settings: Settings, now: float) -> Finding:
    key, limit = Key(AlertCondition.FAILING_TYPES, gate.endpoint), settings.alert_probing_minutes * _MINUTE
    if gate.state in ("probing", "paused"):
        # An outage does not show whether a type works again. A pause ends the alert, as that of an endpoint that is down.
        text = f"{gate.endpoint}: its gate is {gate.state}, which concerns all event types"
        return Finding(key, None if gate.state == "probing" else False, 0.0, limit, text)
    failed, text = 0.0, "no event type fails while others work"
    if failing := gate.failing_at(now).values():
        longest = min(failing, key=lambda each: each.since)
        failed = now - longest.since
        text = (
            f"{longest.event_type} has failed for {failed / _MINUTE:.0f} minutes while other types work, "
            f"the limit is {limit / _MINUTE:g}"
        )
        if more := len(failing) - 1:
            text += f"; {counted(more, 'more type fails', 'more types fail')}"
    # The next type's failures may be younger than the limit: the alert then goes on if it was raised, and does not begin.
    return Finding(key, _is_above(failed, limit), failed, limit, f"{gate.endpoint}: {text}")


def _gone(gate: Gate, held: int, now: float) -> Finding:
    text = "it is not paused because of a 410"
    if gate.is_gone:
        text = f"it answered 410 Gone, so it is paused until an operator resumes it; deliveries held: {held}"
    paused = now - gate.since if gate.is_gone else 0.0
    return Finding(
        Key(AlertCondition.GONE, gate.endpoint), gate.is_gone, paused, 0.0, f"{gate.endpoint}: {text}"
    )


def _held(
    gate: Gate, totals: Totals, now: float, max_ages: Mapping[tuple[str, str | None], float]
) -> Finding:
    key = Key(AlertCondition.HELD, gate.endpoint)
    rounds, why = totals.oldest_round_at, f"its gate is {gate.state}, and its"
    if not gate.governs_at(now):
        rounds, types = totals.oldest_held_round_at, sorted(gate.failing_at(now))
        named = some(types, _MOST_TYPES)
        why = f"its type {named} fails, and its" if len(types) == 1 else f"its types {named} fail, and their"
    of_gate = {each: at for each, at in rounds.items() if each[0] == gate.endpoint}
    if not gate.holds_at(now) or not of_gate:
        return Finding(key, False, 0.0, HELD_SHARE, f"{gate.endpoint}: its gate holds no deliveries")
    ages = [(now - at, max_ages[each]) for each, at in of_gate.items() if each in max_ages]
    if not ages:
        return Finding(
            key, None, 0.0, HELD_SHARE, f"{gate.endpoint}: the max_age of its deliveries is unknown"
        )
    age, max_age = max(ages, key=lambda each: _part(*each))
    value = _part(age, max_age)
    text = (
        f"{gate.endpoint}: {why} oldest delivery has waited {age / _HOUR:.1f} of the "
        f"{max_age / _HOUR:.3g} hours of its max_age; the limit is {HELD_SHARE:.0%}"
    )
    return Finding(key, value > HELD_SHARE, value, HELD_SHARE, text)


def _gets_only_probes(gate: Gate | None) -> bool:
    return gate is not None and gate.state in ("probing", "paused")


def _part(of: float, whole: float) -> float:
    return of / whole if whole > 0 else 0.0


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
