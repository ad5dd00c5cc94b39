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
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from sqlalchemy import func, select

from resonant.metrics.percentiles import NANOSECONDS, Entry, Spread, read_entries, spread
from resonant.store import schema
from resonant.store.counts import sketches
from resonant.store.counts.counters import DelayOf, read_unfolded
from resonant.store.counts.sketches import Labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection

K = TypeVar("K", int, str, tuple[str, str])

_HOUR = 3600
_d = schema.deliveries


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

    total: int = 0
    success: int = 0
    dead_letter: int = 0
    failed: int = 0
    unfinished: int = 0

    @property
    def success_rate(self) -> float | None:
        """The share of delivered events among those that ended."""
        return _part(self.success, self.success + self.dead_letter)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts that ended in the window; ``failed`` includes lost ones."""

    total: int = 0
    failed: int = 0

    @property
    def error_rate(self) -> float | None:
        """The share of attempts that failed or were lost."""
        return _part(self.failed, self.total)


@dataclass(frozen=True, slots=True)
class Retries:
    """All retries of the events, even before the window; ``avg`` and ``max`` are over events with an attempt."""

    total: int = 0
    avg: float | None = None
    max: int | None = None


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

    events: Events = Events()
    attempts: Attempts = Attempts()
    latency: Spread = field(default_factory=Spread)
    end_to_end: Spread = field(default_factory=Spread)
    first_attempt: Spread = field(default_factory=Spread)
    retries: Retries = Retries()
    reasons: dict[str, int] = field(default_factory=dict)
    error_categories: dict[str, int] = field(default_factory=dict)
    error_codes: dict[str, int] = field(default_factory=dict)
    error_types: dict[str, int] = field(default_factory=dict)


class Hour(NamedTuple):
    """One hour, from ``start``: the attempts and events that ended in it."""

    start: int
    figures: Figures


@dataclass(frozen=True, slots=True)
class Delays:
    """The delays after failed attempts of one endpoint, for one policy, attempt number and presence of a Retry-After."""

    endpoint: str
    key: DelayOf
    count: int
    spread: Spread


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


def unfinished_entry(endpoint: str, event_type: str, attempts: int, number: int) -> Entry:
    """Return an entry for unfinished deliveries with the same number of attempts. Its measure is not stored."""
    labels = Labels("unfinished", endpoint, event_type)
    if not attempts:
        return Entry(0, labels, count=number)
    retries = attempts - 1
    total = number * retries * NANOSECONDS
    return Entry(0, labels, count=number, measured=number, total=total, least=retries, most=retries)


def read_statistics(connection: Connection, *, now: float, since: float) -> Statistics:
    """Compute the statistics of a window, from the beginning of a minute, hour or day: see ``begin_of``.

    Args:
        connection: an open connection.
        now: seconds since the epoch.
        since: seconds since the epoch.
    """
    begin = sketches.begin_of(since, now=now)
    rows = sketches.read(connection, since=begin, until=now)
    for tally in read_unfolded(connection):
        if begin <= tally.minute <= now:
            rows.append(sketches.pack(tally.minute, tally.sketches()))
    key = (_d.c.endpoint, _d.c.event_type, _d.c.attempts)
    query = select(*key, func.count()).where(_d.c.available_at.is_not(None)).group_by(*key)
    waiting = [unfinished_entry(*row) for row in connection.execute(query)]
    return statistics(rows, waiting, since=begin, until=now)


def statistics(
    rows: Iterable[sketches.Packed], waiting: Iterable[Entry], *, since: float, until: float
) -> Statistics:
    """Compute the statistics of a window.

    Args:
        rows: the sketches of the window, as ``sketches.read`` returns them.
        waiting: the deliveries that have not ended; see ``unfinished_entry``.
        since: seconds since the epoch.
        until: seconds since the epoch.
    """
    ended = read_entries(rows)
    entries = [*ended, *waiting]
    by_hour = _figures_by(ended, lambda entry: entry.hour)
    hours = range(min(by_hour), int(until) + 1, _HOUR) if by_hour else ()
    return Statistics(
        since=since,
        until=until,
        overall=_figures(entries),
        by_endpoint=_figures_by(entries, lambda entry: entry.labels.endpoint),
        by_event_type=_figures_by(entries, lambda entry: entry.labels.event_type),
        hourly=tuple(Hour(start, by_hour.get(start) or Figures()) for start in hours),
        delays=_delays(ended),
    )


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], K]) -> defaultdict[K, list[Entry]]:
    groups: defaultdict[K, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return groups


def _figures_by(entries: Iterable[Entry], key: Callable[[Entry], K]) -> dict[K, Figures]:
    """Compute the figures of each group that has attempts or events, in the order of their keys."""
    groups = _grouped(entries, key)
    figures = {name: _figures(groups[name]) for name in sorted(groups)}
    return {name: each for name, each in figures.items() if each.attempts.total or each.events.total}


def _figures(entries: Iterable[Entry]) -> Figures:
    of = _grouped(entries, lambda entry: entry.labels.measure)
    failed = [entry for entry in of["attempt"] if entry.labels.result != "delivered"]
    delivered = [entry for entry in of["delivery"] if entry.labels.result == "delivered"]
    dead = [entry for entry in of["delivery"] if entry.labels.result == "dead_letter"]
    reasons = _sums(dead, "detail")
    reasons.subtract(_sums(of["replayed"], "detail"))
    success, dead_letters, waiting = _count(delivered), max(0, reasons.total()), _count(of["unfinished"])
    total = success + dead_letters + waiting
    return Figures(
        events=Events(total, success, dead_letters, max(0, reasons["permanent"]), waiting),
        attempts=Attempts(_count(of["attempt"]), _count(failed)),
        latency=spread(of["attempt"]),
        end_to_end=spread(delivered),
        first_attempt=spread(of["first_attempt"]),
        retries=_retries([*of["retries"], *of["unfinished"]], of["replayed"]),
        reasons=_ranked(reasons),
        error_categories=_ranked(_sums(failed, "category")),
        error_codes=_ranked(_sums(failed, "code")),
        error_types=_ranked(_sums(failed, "detail")),
    )


def _retries(retried: list[Entry], replayed: list[Entry]) -> Retries:
    tried = sum(entry.measured for entry in retried) - sum(entry.measured for entry in replayed)
    if tried <= 0:
        return Retries()
    retries = sum(entry.total for entry in retried) - sum(entry.total for entry in replayed)
    total = max(0, retries // NANOSECONDS)
    return Retries(total, total / tried, max(round(entry.most) for entry in retried if entry.measured))


def _count(entries: Iterable[Entry]) -> int:
    return sum(entry.count for entry in entries)


def _sums(entries: Iterable[Entry], label: str) -> Counter[str]:
    sums = Counter[str]()
    for entry in entries:
        sums[getattr(entry.labels, label)] += entry.count
    return sums


def _ranked(counts: Counter[str]) -> dict[str, int]:
    found = [(name, number) for name, number in counts.items() if name and number > 0]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))


def _delays(entries: Iterable[Entry]) -> tuple[Delays, ...]:
    delays = [entry for entry in entries if entry.labels.measure == "delay" and entry.measured]
    groups = _grouped(delays, lambda entry: (entry.labels.endpoint, entry.labels.detail))
    found = [
        Delays(endpoint, DelayOf.from_text(detail), _count(group), spread(group))
        for (endpoint, detail), group in groups.items()
    ]
    return tuple(sorted(found, key=lambda each: (each.endpoint, each.key.policy or "", each.key)))


def _part(of: int, whole: int) -> float | None:
    return of / whole if whole else None
