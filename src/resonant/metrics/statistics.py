"""Statistics of a window, from the sketches of the store: results of events, failures of attempts, durations of both.

Here, an event is one delivery, regardless of its number of attempts. There are two rates:

- the **success rate** is per event: the share of delivered events among those that ended in the window;
- the **error rate** is per attempt: the share of failed or lost attempts among those that ended in the window.

A replayed dead letter counts only by its new outcome. A purge does not change statistics.

A rate or a percentile without data is None. Rates are fractions, durations are in seconds, and times are in seconds since the
epoch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from resonant.metrics.percentiles import NANOSECONDS, Sketches, Spread
from resonant.store.counters import DelayOf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from resonant.metrics.percentiles import Entry
    from resonant.store.sketches import Packed

_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Events:
    """The results of events: those that ended in the window, and those unfinished at its end.

    Attributes:
        total: success + dead_letter + unfinished.
        success: delivered.
        dead_letter: given up, for any reason.
        failed: dead letters with the reason permanent, which ``resonant failed`` lists.
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
    """Attempts that ended in the window; ``failed`` includes lost ones."""

    total: int
    failed: int

    @property
    def error_rate(self) -> float | None:
        """The share of attempts that failed or were lost."""
        return _part(self.failed, self.total)


@dataclass(frozen=True, slots=True)
class Retries:
    """All retries of the events, even before the window; ``avg`` and ``max`` are over events with an attempt."""

    total: int
    avg: float | None
    max: int | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The statistics of all endpoints, of one endpoint, or of one event type.

    Attributes:
        latency: durations of attempts that were answered or failed; the end of a lost one is unknown.
        end_to_end: durations from acceptance to delivery, of events delivered in the window.
        first_attempt: durations from acceptance to the first attempt, unless it was lost with its worker.
        reasons: dead letters by reason.
        error_categories, error_codes, error_types: failed and lost attempts, the most frequent first.
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
    first_attempt: Spread = field(default_factory=Spread)


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour, from ``start``: attempts and events that ended in it."""

    start: int
    attempts: int
    failed_attempts: int
    success: int
    dead_letter: int
    latency: Spread


@dataclass(frozen=True, slots=True)
class Delays:
    """The delays, in seconds, after failed attempts with the same endpoint, policy, number and ``asked``.

    Attributes:
        policy: the retry policy requested by the producer; None for the endpoint's.
        after: the number of the failed attempt within its round, from 1.
        asked: whether the endpoint sent a Retry-After.
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
        since: the beginning of a minute, or of an hour or a day if the window is long.
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


class Unfinished(NamedTuple):
    """The number of unfinished deliveries with this number of attempts."""

    endpoint: str
    event_type: str
    attempts: int
    number: int


def statistics(
    rows: Iterable[Packed], unfinished: Sequence[Unfinished], *, since: float, until: float
) -> Statistics:
    """Compute the statistics of a window.

    Args:
        rows: the sketches of the window, as ``sketches.read`` returns them.
        unfinished: the deliveries that have not ended.
        since: seconds since the epoch.
        until: seconds since the epoch.
    """
    sketches = Sketches(rows)
    overall = _figures(sketches, unfinished, lambda _each: "")
    return Statistics(
        since=since,
        until=until,
        overall=overall.get("") or _Counts().figures(Spread(), Spread(), Spread()),
        by_endpoint=_figures(sketches, unfinished, lambda each: each.endpoint),
        by_event_type=_figures(sketches, unfinished, lambda each: each.event_type),
        hourly=_hourly(sketches, until=until),
        delays=_delays(sketches),
    )


def _figures(
    sketches: Sketches, unfinished: Iterable[Unfinished], key: Callable[[Entry | Unfinished], str]
) -> dict[str, Figures]:
    """Compute the figures of each group that has any; ``key`` returns the group."""
    counts: defaultdict[str, _Counts] = defaultdict(_Counts)
    for entry in sketches.entries:
        counts[key(entry)].add(entry)
    for each in unfinished:
        counts[key(each)].add_unfinished(each)
    latency = sketches.spreads("attempt", key)
    end_to_end = sketches.spreads("delivery", key, result="delivered")
    first_attempt = sketches.spreads("first_attempt", key)
    nothing = (0, Spread())
    return {
        name: counts[name].figures(
            *(spreads.get(name, nothing)[1] for spreads in (latency, end_to_end, first_attempt))
        )
        for name in sorted(counts)
        if counts[name].is_any
    }


class _Counts:
    """Adds up the counts of entries."""

    def __init__(self) -> None:
        self._ends: Counter[str] = Counter()
        self._attempts = self._failed = 0
        self._tried = self._retries = self._most_retries = 0
        self._reasons: Counter[str] = Counter()
        self._categories: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._types: Counter[str] = Counter()

    def add(self, entry: Entry) -> None:
        match entry.measure:
            case "attempt":
                self._attempts += entry.count
                if entry.result != "delivered":
                    self._failed += entry.count
                    self._categories[entry.category] += entry.count
                    self._codes[entry.code] += entry.count
                    self._types[entry.detail] += entry.count
            case "delivery":
                self._ends[entry.result] += entry.count
                if entry.result == "dead_letter":
                    self._reasons[entry.detail] += entry.count
            case "retries":
                self._add_retries(entry.measured, entry.total // NANOSECONDS, round(entry.most or 0))
            case "replayed":
                self._ends["dead_letter"] -= entry.count
                self._reasons[entry.detail] -= entry.count
                self._add_retries(-entry.measured, -(entry.total // NANOSECONDS), 0)

    def add_unfinished(self, each: Unfinished) -> None:
        self._ends["unfinished"] += each.number
        if each.attempts:
            retries = each.attempts - 1
            self._add_retries(each.number, each.number * retries, retries)

    def _add_retries(self, tried: int, retries: int, most: int) -> None:
        self._tried += tried
        self._retries += retries
        self._most_retries = max(self._most_retries, most)

    @property
    def is_any(self) -> bool:
        """Whether there is anything to show."""
        return bool(self._attempts or any(self._ends.values()))

    def ended(self) -> tuple[int, int]:
        """Return how many events were delivered and given up."""
        return self._ends["delivered"], max(0, self._ends["dead_letter"])

    def attempts(self) -> Attempts:
        return Attempts(self._attempts, self._failed)

    def figures(self, latency: Spread, end_to_end: Spread, first_attempt: Spread) -> Figures:
        success, dead = self.ended()
        unfinished = self._ends["unfinished"]
        tried = max(0, self._tried)
        return Figures(
            events=Events(
                total=success + dead + unfinished,
                success=success,
                dead_letter=dead,
                failed=max(0, self._reasons["permanent"]),
                unfinished=unfinished,
            ),
            attempts=self.attempts(),
            latency=latency,
            end_to_end=end_to_end,
            first_attempt=first_attempt,
            retries=Retries(
                total=max(0, self._retries),
                avg=max(0, self._retries) / tried if tried else None,
                max=self._most_retries if tried else None,
            ),
            reasons=_ranked(self._reasons),
            error_categories=_ranked(self._categories),
            error_codes=_ranked(self._codes),
            error_types=_ranked(self._types),
        )


def _ranked(counts: Counter[str]) -> dict[str, int]:
    found = [(name, number) for name, number in counts.items() if name and number > 0]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))


def _hourly(sketches: Sketches, *, until: float) -> tuple[Hour, ...]:
    counts: defaultdict[int, _Counts] = defaultdict(_Counts)
    for entry in sketches.entries:
        counts[entry.hour].add(entry)
    latency = sketches.spreads("attempt", lambda entry: entry.hour)
    seen = [hour for hour, each in counts.items() if each.is_any]
    if not seen:
        return ()
    return tuple(
        Hour(
            start,
            *(attempts.total, attempts.failed),
            *counts[start].ended(),
            latency.get(start, (0, Spread()))[1],
        )
        for start in range(min(seen), int(until) + 1, _HOUR)
        for attempts in [counts[start].attempts()]
    )


def _delays(sketches: Sketches) -> tuple[Delays, ...]:
    spreads = sketches.spreads("delay", lambda entry: (entry.endpoint, DelayOf.from_text(entry.detail)))
    return tuple(
        Delays(
            endpoint,
            of.policy,
            of.after,
            of.asked,
            count,
            spread.min or 0.0,
            spread.p50 or 0.0,
            spread.max or 0.0,
        )
        for (endpoint, of), (count, spread) in sorted(
            spreads.items(), key=lambda item: (item[0][0], item[0][1].policy or "", *item[0][1][:2])
        )
    )


def _part(of: int, whole: int) -> float | None:
    return of / whole if whole else None
