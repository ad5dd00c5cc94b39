"""Statistics of a window: what became of events, how often attempts failed, how long both took.

An event here is one delivery, however often it was tried; an attempt is one try. Two rates, never to be mixed up:

- the **success rate** is per event: of those that ended in the window, the part that was delivered;
- the **error rate** is per attempt: of the attempts that began in it, the part that failed or was lost.

A rate or a percentile of nothing is None. Rates are parts of 1, durations seconds, moments seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_HOUR = 3600
_QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Spread:
    """How durations are spread, in seconds; percentiles are interpolated linearly, as numpy does by default."""

    min: float | None = None
    avg: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Events:
    """What became of events: those that ended in the window, and those that are unfinished at its end.

    Attributes:
        total: all of them: success + dead_letter + unfinished.
        success: delivered.
        dead_letter: given up, for whatever reason.
        failed: those of dead_letter that no retry would have mended (reason permanent), as ``resonant failed`` lists.
        unfinished: pending or retrying.
    """

    total: int
    success: int
    dead_letter: int
    failed: int
    unfinished: int

    @property
    def success_rate(self) -> float | None:
        """Per event: delivered ones among those that ended."""
        return _part(self.success, self.success + self.dead_letter)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts that began in the window; ``failed`` counts lost ones too."""

    total: int
    failed: int

    @property
    def error_rate(self) -> float | None:
        """Per attempt: those that did not deliver."""
        return _part(self.failed, self.total)


@dataclass(frozen=True, slots=True)
class Retries:
    """Attempts after an event's first, over its whole life; ``avg`` and ``max`` are of events tried at all."""

    total: int
    avg: float | None
    max: int | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The statistics of all, of one endpoint, or of one event type.

    Attributes:
        latency: of an attempt that was answered or failed, not of lost ones, whose end nobody saw.
        end_to_end: from acceptance to delivery, of events delivered in the window.
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
    """The delays, in seconds, decided on after failed attempts that have all of this in common.

    Attributes:
        policy: the retry policy that their producer asked for; None left it to the endpoint.
        after: the number of the failed attempt within its round, from 1.
        asked: whether the endpoint asked for a wait, by Retry-After.
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
        hourly: every hour from the first in which something happened until the window's end, quiet ones too.
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
        attempts: one row an attempt, with the columns that ``store.measuring.Window`` names.
        deliveries: one row a delivery, likewise.
        since: seconds since the epoch.
        until: seconds since the epoch.
    """
    return Statistics(
        since=since,
        until=until,
        overall=_figures(attempts, deliveries),
        by_endpoint=_figures_by("endpoint", attempts, deliveries),
        by_event_type=_figures_by("event_type", attempts, deliveries),
        hourly=_hourly(attempts, deliveries, since=since, until=until),
        delays=_delays(attempts),
    )


def _figures_by(column: str, attempts: DataFrame, deliveries: DataFrame) -> dict[str, Figures]:
    attempts_of = {str(name): group for name, group in attempts.groupby(column)}
    deliveries_of = {str(name): group for name, group in deliveries.groupby(column)}
    return {
        name: _figures(attempts_of.get(name, attempts[:0]), deliveries_of.get(name, deliveries[:0]))
        for name in sorted(attempts_of.keys() | deliveries_of.keys())
    }


def _figures(attempts: DataFrame, deliveries: DataFrame) -> Figures:
    failures = attempts[attempts["result"] != "delivered"]
    delivered = deliveries[deliveries["status"] == "delivered"]
    dead = deliveries[deliveries["status"] == "dead_letter"]
    return Figures(
        events=Events(
            total=len(deliveries),
            success=len(delivered),
            dead_letter=len(dead),
            failed=int((dead["reason"] == "permanent").sum()),
            unfinished=len(deliveries) - len(delivered) - len(dead),
        ),
        attempts=Attempts(total=len(attempts), failed=len(failures)),
        latency=_latency(attempts),
        # A clock that was put back makes no negative duration; the rollups say the same.
        end_to_end=_spread((delivered["finished_at"] - delivered["accepted_at"]).clip(lower=0)),
        retries=_retries(deliveries),
        reasons=_counts(dead["reason"]),
        error_categories=_counts(failures["category"]),
        error_codes=_counts(failures["code"]),
        error_types=_counts(failures["error_type"]),
    )


def _latency(attempts: DataFrame) -> Spread:
    return _spread(attempts.loc[attempts["result"] != "lost", "duration"].clip(lower=0))


def _spread(seconds: Series[float]) -> Spread:
    if seconds.empty:
        return Spread()
    p50, p95, p99 = map(float, seconds.quantile(list(_QUANTILES)))
    return Spread(float(seconds.min()), float(seconds.mean()), p50, p95, p99, float(seconds.max()))


def _retries(deliveries: DataFrame) -> Retries:
    tried = deliveries.loc[deliveries["attempts"] > 0, "attempts"] - 1
    if tried.empty:
        return Retries(total=0, avg=None, max=None)
    return Retries(total=int(tried.sum()), avg=float(tried.mean()), max=int(tried.max()))


def _delays(attempts: DataFrame) -> tuple[Delays, ...]:
    retried = attempts[attempts["delay"].notna()]
    groups = retried.groupby(
        [
            retried["endpoint"],
            retried["policy"].fillna(""),  # as a group, and sorted before the names
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


def _counts(names: Series[str]) -> dict[str, int]:
    counts = {str(name): int(count) for name, count in names.value_counts().items()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _hourly(attempts: DataFrame, deliveries: DataFrame, *, since: float, until: float) -> tuple[Hour, ...]:
    ended = deliveries[deliveries["finished_at"].notna()]
    attempts_of = {int(hour): group for hour, group in attempts.groupby(_hours(attempts["started_at"]))}
    ended_of = {int(hour): group for hour, group in ended.groupby(_hours(ended["finished_at"]))}
    # Not beyond the window: a worker whose clock is years ahead shall not make a row of every hour until then.
    seen = [hour for hour in attempts_of.keys() | ended_of.keys() if since - _HOUR < hour <= until]
    if not seen:
        return ()
    hours = range(min(seen), int(until) + 1, _HOUR)
    return tuple(
        _hour(hour, attempts_of.get(hour, attempts[:0]), ended_of.get(hour, ended[:0])) for hour in hours
    )


def _hours(moments: Series[float]) -> Series[float]:
    return moments // _HOUR * _HOUR


def _hour(start: int, attempts: DataFrame, ended: DataFrame) -> Hour:
    return Hour(
        start=start,
        attempts=len(attempts),
        failed_attempts=int((attempts["result"] != "delivered").sum()),
        success=int((ended["status"] == "delivered").sum()),
        dead_letter=int((ended["status"] == "dead_letter").sum()),
        latency=_latency(attempts),
    )


def _part(of: int, whole: int) -> float | None:
    return of / whole if whole else None
