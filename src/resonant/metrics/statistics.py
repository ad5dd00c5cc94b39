"""Statistics of a window: the results of events, the failures of attempts, and the durations of both.

An event here is one delivery, however often it was tried; an attempt is one try. There are two different rates:

- the **success rate** is per event: the share of delivered events among those that ended in the window;
- the **error rate** is per attempt: the share of failed or lost attempts among those that began in it.

A rate or a percentile without data is None. Rates are parts of 1, durations seconds, times seconds since the epoch.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pandas import Series

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from pandas import DataFrame

    Key = Series[Any] | NDArray[Any]

_HOUR = 3600
_QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles and other statistics of durations, in seconds; linearly interpolated, as numpy does by default."""

    min: float | None = None
    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Events:
    """The results of events: those that ended in the window, and those unfinished at its end.

    Attributes:
        total: all of them: success + dead_letter + unfinished.
        success: delivered.
        dead_letter: given up, for any reason.
        failed: dead letters that no retry could help (reason permanent), as ``resonant failed`` lists.
        unfinished: pending or retrying.
    """

    total: int
    success: int
    dead_letter: int
    failed: int
    unfinished: int

    @property
    def success_rate(self) -> float | None:
        """The share of delivered events among those that ended."""
        return _part(self.success, self.success + self.dead_letter)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts that began in the window; ``failed`` includes lost ones."""

    total: int
    failed: int

    @property
    def error_rate(self) -> float | None:
        """The share of attempts that did not deliver."""
        return _part(self.failed, self.total)


@dataclass(frozen=True, slots=True)
class Retries:
    """Attempts after an event's first, ever; ``avg`` and ``max`` are over events with at least one attempt."""

    total: int
    avg: float | None
    max: int | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The statistics of all, of one endpoint, or of one event type.

    Attributes:
        latency: durations of attempts that were answered or failed; lost ones have no known end.
        end_to_end: durations from acceptance to delivery, of events delivered in the window.
        reasons: dead letters by reason.
        error_categories, error_codes, error_types: attempts that did not deliver, the most frequent first.
    """

    events: Events
    attempts: Attempts
    latency: Spread
    end_to_end: Spread
    retries: Retries
    reasons: dict[str, int]
    error_categories: dict[str, int]
    error_codes: dict[str, int]
    error_types: dict[str, int]


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour, from ``start``: attempts that began and events that ended in it."""

    start: int
    attempts: int
    failed_attempts: int
    success: int
    dead_letter: int
    latency: Spread


@dataclass(frozen=True, slots=True)
class Delays:
    """The delays, in seconds, after failed attempts that have these fields in common.

    Attributes:
        policy: the retry policy requested by the producer; None for the endpoint's.
        after: the number of the failed attempt within its round, from 1.
        asked: whether the endpoint asked for a wait by Retry-After.
    """

    endpoint: str
    policy: str | None
    after: int
    asked: bool
    count: int
    min: float
    median: float
    max: float


@dataclass(frozen=True, slots=True)
class Statistics:
    """A window's statistics.

    Attributes:
        hourly: every hour from the first with activity until the window's end.
        delays: by endpoint, policy and number of the attempt.
    """

    since: float
    until: float
    overall: Figures
    by_endpoint: dict[str, Figures]
    by_event_type: dict[str, Figures]
    hourly: tuple[Hour, ...]
    delays: tuple[Delays, ...]


def statistics(attempts: DataFrame, deliveries: DataFrame, *, since: float, until: float) -> Statistics:
    """Compute the statistics of a window.

    Args:
        attempts: one row per attempt, with the columns of ``metrics.snapshot.Window``.
        deliveries: one row per delivery, likewise.
        since: seconds since the epoch.
        until: seconds since the epoch.
    """
    facts = _Facts(attempts, deliveries)
    return Statistics(
        since=since,
        until=until,
        overall=_Grouped(facts, lambda frame: np.zeros(len(frame), dtype=np.int8)).figures(0),
        by_endpoint=_figures_by("endpoint", facts),
        by_event_type=_figures_by("event_type", facts),
        hourly=_hourly(facts, since=since, until=until),
        delays=_delays(attempts),
    )


class _Facts:
    """The rows and their subsets, filtered once and then grouped in several ways."""

    def __init__(self, attempts: DataFrame, deliveries: DataFrame) -> None:
        self.attempts = attempts
        self.failures = attempts[attempts["result"] != "delivered"]
        self.answered = attempts[attempts["result"] != "lost"]
        self.deliveries = deliveries
        self.delivered = deliveries[deliveries["status"] == "delivered"]
        self.dead = deliveries[deliveries["status"] == "dead_letter"]
        self.tried = deliveries[deliveries["attempts"] > 0]


def _figures_by(column: str, facts: _Facts) -> dict[str, Figures]:
    grouped = _Grouped(facts, lambda frame: frame[column])
    return {str(name): grouped.figures(name) for name in sorted(grouped.names)}


class _Grouped:
    """All statistics by group: one pass over the rows for each number, however many groups there are."""

    def __init__(self, facts: _Facts, key: Callable[[DataFrame], Key]) -> None:
        self._total = _sizes(key(facts.deliveries))
        self._success = _sizes(key(facts.delivered))
        self._dead = _sizes(key(facts.dead))
        self._attempts = _sizes(key(facts.attempts))
        self._failed = _sizes(key(facts.failures))
        self._latency = _latencies(facts, key(facts.answered))
        # A clock that was set back must not make a duration negative; the rollups do the same.
        took = (facts.delivered["finished_at"] - facts.delivered["accepted_at"]).clip(lower=0)
        self._end_to_end = _spreads(took, key(facts.delivered))
        retries = (facts.tried["attempts"] - 1).groupby(key(facts.tried), observed=True)
        self._retries = {
            name: Retries(int(total), float(average), int(most))
            for name, total, average, most in retries.agg(["sum", "mean", "max"]).itertuples(name=None)
        }
        self._reasons = _counts(facts.dead["reason"], key(facts.dead))
        failures = key(facts.failures)
        self._categories = _counts(facts.failures["category"], failures)
        self._codes = _counts(facts.failures["code"], failures)
        self._types = _counts(facts.failures["error_type"], failures)

    @property
    def names(self) -> set[Any]:
        """The groups that have rows."""
        return {*self._total, *self._attempts}

    def figures(self, name: Any) -> Figures:
        """Return a group's figures; zero or None if it has no rows."""
        reasons = self._reasons.get(name, {})
        total, success, dead = (of.get(name, 0) for of in (self._total, self._success, self._dead))
        return Figures(
            events=Events(
                total=total,
                success=success,
                dead_letter=dead,
                failed=reasons.get("permanent", 0),
                unfinished=total - success - dead,
            ),
            attempts=Attempts(total=self._attempts.get(name, 0), failed=self._failed.get(name, 0)),
            latency=self._latency.get(name, Spread()),
            end_to_end=self._end_to_end.get(name, Spread()),
            retries=self._retries.get(name, Retries(total=0, avg=None, max=None)),
            reasons=reasons,
            error_categories=self._categories.get(name, {}),
            error_codes=self._codes.get(name, {}),
            error_types=self._types.get(name, {}),
        )


def _sizes(key: Key) -> dict[Any, int]:
    return {name: int(number) for name, number in Series(key).value_counts(sort=False).items() if number}


def _latencies(facts: _Facts, key: Key) -> dict[Any, Spread]:
    return _spreads(facts.answered["duration"].clip(lower=0), key)


def _spreads(seconds: Series[float], key: Key) -> dict[Any, Spread]:
    groups = seconds.groupby(key, observed=True)
    found = groups.agg(["min", "mean", "max"])
    for name in _QUANTILES:
        found[name] = groups.quantile(name)
    order = found[["min", "mean", *_QUANTILES, "max"]]
    return {name: Spread(*map(float, numbers)) for name, *numbers in order.itertuples(name=None)}


def _counts(names: Series[str], key: Key) -> dict[Any, dict[str, int]]:
    counts: defaultdict[Any, list[tuple[str, int]]] = defaultdict(list)
    sizes = names.groupby([key, names], observed=True).size()
    for (group, name), number in zip(sizes.index, sizes, strict=True):
        counts[group].append((str(name), int(number)))
    return {
        group: dict(sorted(items, key=lambda item: (-item[1], item[0]))) for group, items in counts.items()
    }


def _delays(attempts: DataFrame) -> tuple[Delays, ...]:
    retried = attempts[attempts["delay"].notna()]
    groups = retried.groupby(
        [
            retried["endpoint"].astype(object),  # sorted by name, and not by category
            retried["policy"].astype(object).fillna(""),  # as a group, and sorted before the names
            retried["round_attempt"].astype("int64"),
            retried["retry_after"].notna(),
        ]
    )["delay"]
    return tuple(
        Delays(str(endpoint), policy or None, after, asked, count, low, median, high)
        for (endpoint, policy, after, asked), count, low, median, high in groups.agg(
            ["count", "min", "median", "max"]
        ).itertuples(name=None)
    )


def _hourly(facts: _Facts, *, since: float, until: float) -> tuple[Hour, ...]:
    attempts = _sizes(_hours(facts.attempts["started_at"]))
    failed = _sizes(_hours(facts.failures["started_at"]))
    success = _sizes(_hours(facts.delivered["finished_at"]))
    dead = _sizes(_hours(facts.dead["finished_at"]))
    latency = _latencies(facts, _hours(facts.answered["started_at"]))
    # Not beyond the window: a worker whose clock is years ahead must not add a row for every hour until then.
    seen = [hour for hour in {*attempts, *success, *dead} if since - _HOUR < hour <= until]
    if not seen:
        return ()
    return tuple(
        Hour(
            start=hour,
            attempts=attempts.get(hour, 0),
            failed_attempts=failed.get(hour, 0),
            success=success.get(hour, 0),
            dead_letter=dead.get(hour, 0),
            latency=latency.get(hour, Spread()),
        )
        for hour in range(int(min(seen)), int(until) + 1, _HOUR)
    )


def _hours(moments: Series[float]) -> Series[float]:
    return moments // _HOUR * _HOUR


def _part(of: int, whole: int) -> float | None:
    return of / whole if whole else None
