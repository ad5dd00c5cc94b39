"""The history of an endpoint in the store: its outages and its latest answers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NamedTuple

from sqlalchemy import Connection, func, select

from resonant.store import schema
from resonant.store.counts.counters import read_counts

OutageKind = Literal["refuse", "503", "hang"]

DAYS = 30
# The limit of the query, for attempts of all endpoints.
MOST_ATTEMPTS = 100_000
# An outage has at least this many failures and no delivery. A longer pause between failures ends it.
_FEWEST_FAILURES = 5
_LONGEST_PAUSE = 3 * 3600.0
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86_400.0
_TIMEOUTS = ("timeout", "read_timeout", "write_timeout", "connect_timeout")
_THROTTLED = 429
_a, _d = schema.attempts.c, schema.deliveries.c


class PastOutage(NamedTuple):
    """An interval with failed attempts and no delivery: its bounds, seconds since the epoch, and the kind of failure."""

    start: float
    end: float
    kind: OutageKind

    @property
    def seconds(self) -> float:
        """The duration, in seconds."""
        return self.end - self.start


class Answered(NamedTuple):
    """An attempt: its start, its duration and its result."""

    started_at: float
    duration: float
    is_delivered: bool
    category: str | None
    code: str | None
    status_code: int | None
    retry_after: float | None


class _Period(NamedTuple):
    """The counts of an hour, or of a minute: from ``start`` to ``end``, seconds since the epoch."""

    start: float
    end: float
    delivered: int
    failures: Counter[str]


@dataclass(frozen=True, slots=True)
class History:
    """The history of an endpoint.

    Attributes:
        since, until: the interval of the counters, seconds since the epoch.
        delivered, failed: attempts in that interval.
        outages: in chronological order.
        attempts: the latest attempts, in chronological order.
    """

    endpoint: str
    since: float
    until: float
    delivered: int
    failed: int
    outages: tuple[PastOutage, ...]
    attempts: tuple[Answered, ...]

    @property
    def longest_outage(self) -> PastOutage | None:
        """The longest outage; None without one."""
        return max(self.outages, key=lambda each: each.seconds, default=None)

    @property
    def durations(self) -> list[float]:
        """The durations of the latest delivered attempts, in seconds and ascending order."""
        return sorted(each.duration for each in self.attempts if each.is_delivered)

    @property
    def timeouts(self) -> int:
        """The number of the latest attempts that timed out."""
        return sum(each.code in _TIMEOUTS for each in self.attempts)

    @property
    def throttled(self) -> int:
        """The number of the latest attempts that were answered with 429."""
        return sum(each.status_code == _THROTTLED for each in self.attempts)

    @property
    def retry_after(self) -> float | None:
        """The median Retry-After, in seconds; None without one."""
        asked = [each.retry_after for each in self.attempts if each.retry_after]
        return median(asked) if asked else None

    @property
    def share_failed(self) -> float:
        """The share of random failures in the latest attempts: outside of outages, not permanent, and without 429."""
        counted = [
            each.is_delivered
            for each in self.attempts
            if each.category != "permanent"
            and each.status_code != _THROTTLED
            and not any(outage.start <= each.started_at <= outage.end for outage in self.outages)
        ]
        return counted.count(False) / len(counted) if counted else 0.0

    @property
    def per_second(self) -> float:
        """The average number of deliveries per second in the interval."""
        return self.delivered / (self.until - self.since) if self.until > self.since else 0.0

    @property
    def capacity(self) -> float | None:
        """The maximum accepted requests per second, measured in seconds with 429 answers; None if unknown."""
        accepted, refused = Counter[int](), Counter[int]()
        for each in self.attempts:
            second = int(each.started_at + each.duration)
            accepted[second] += each.is_delivered
            refused[second] += each.status_code == _THROTTLED
        at_the_limit = [accepted[second] for second in refused if refused[second] and accepted[second]]
        return float(median(at_the_limit)) if len(at_the_limit) >= 3 else None  # noqa: PLR2004 - fewer are not significant


def read_history(connection: Connection, endpoint: str, *, now: float) -> History:
    """Read an endpoint's history of the last 30 days, as far as the store keeps it.

    Individual attempts are read from the latest ``MOST_ATTEMPTS`` of the whole store. Outages of the last day are exact to the
    minute if these attempts reach back to them, other outages to the hour.
    """
    since = now - DAYS * _DAY
    attempts = _read_attempts(connection, endpoint)
    spans = _read_hours(connection, endpoint, since)
    first = min(
        [*(each.start for each in spans[:1]), *(each.started_at for each in attempts[:1])], default=now
    )
    return History(
        endpoint=endpoint,
        since=max(since, first),
        until=now,
        delivered=sum(each.delivered for each in spans),
        failed=sum(each.failures.total() for each in spans),
        outages=tuple(_outages(_with_minutes(spans, attempts, now), now)),
        attempts=tuple(attempts),
    )


def _read_attempts(connection: Connection, endpoint: str) -> list[Answered]:
    last = connection.execute(select(func.max(_a.id))).scalar() or 0
    query = (
        select(
            *(_a.started_at, _a.duration, _a.result, _a.category, _a.code, _a.status_code, _a.retry_after),
        )
        .join(_d.id.table, _d.id == _a.delivery_id)
        .where(
            *(_a.id > last - MOST_ATTEMPTS, _d.endpoint == endpoint),
            *(_a.result.in_(["delivered", "failed"]), _a.blame.is_distinct_from("local")),
        )
        .order_by(_a.id)
    )
    return [
        Answered(at, duration, result == "delivered", category, code, status_code, retry_after)
        for at, duration, result, category, code, status_code, retry_after in connection.execute(query)
    ]


def _read_hours(connection: Connection, endpoint: str, since: float) -> list[_Period]:
    hours: dict[float, _Period] = {}
    for minute, labels, number, _ in read_counts(connection, ["attempt"], since=since):
        if labels.endpoint == endpoint and labels.result != "lost":
            failure = None if labels.result == "delivered" else _kind(labels.category, labels.code)
            _count(hours, minute, _HOUR, failure, number)
    return [hours[start] for start in sorted(hours)]


def _with_minutes(hours: Iterable[_Period], attempts: Sequence[Answered], now: float) -> list[_Period]:
    """Replace the hours of the last day by minutes, as far back as there are attempts.

    An hour stays if most of its delivered attempts are no longer there: after a purge, only failures would be left.
    """
    if not attempts:
        return list(hours)
    begin = max(attempts[0].started_at, now - _DAY) // _HOUR * _HOUR
    minutes: dict[float, _Period] = {}
    for each in attempts:
        if each.started_at >= begin:
            failure = None if each.is_delivered else _kind(each.category, each.code)
            _count(minutes, each.started_at, _MINUTE, failure, 1)
    delivered: Counter[float] = Counter()
    for minute in minutes.values():
        delivered[minute.start // _HOUR * _HOUR] += minute.delivered
    kept = [hour for hour in hours if hour.start < begin or delivered[hour.start] < hour.delivered / 2]
    starts = {hour.start for hour in kept}
    found = [*kept, *(each for each in minutes.values() if each.start // _HOUR * _HOUR not in starts)]
    return sorted(found, key=lambda span: span.start)


def _count(spans: dict[float, _Period], at: float, seconds: float, failure: str | None, number: int) -> None:
    start = at // seconds * seconds
    span = spans.get(start) or _Period(start, start + seconds, 0, Counter())
    if failure is None:
        span = span._replace(delivered=span.delivered + number)
    else:
        span.failures[failure] += number
    spans[start] = span


def _kind(category: str | None, code: str | None) -> str:
    """Return how an endpoint failed: the kind of an outage, or `answered` if the answer concerns the event."""
    code = code or ""
    if code in _TIMEOUTS:
        return "hang"
    if code.startswith("http_5") or code == "throttled":
        return "503"
    return "answered" if category == "permanent" and code.startswith("http_") else "refuse"


def _outages(spans: Sequence[_Period], now: float) -> Iterable[PastOutage]:
    failures: Counter[str] = Counter()
    start = end = 0.0
    for span in spans:
        down = span.failures.total() - span.failures["answered"]
        is_down = down > 0 and not span.delivered and not span.failures["answered"]
        if failures and (not is_down or span.start - end > _LONGEST_PAUSE):
            reached = end if span.start - end > _LONGEST_PAUSE else span.start
            yield from _outage(start, reached, failures)
            failures = Counter()
        if is_down:
            start = start if failures else span.start
            end = min(now, span.end)
            failures += span.failures
    yield from _outage(start, end, failures)


def _outage(start: float, end: float, failures: Counter[str]) -> Iterable[PastOutage]:
    if failures.total() >= _FEWEST_FAILURES:
        kind = failures.most_common(1)[0][0]
        yield PastOutage(start, end, "hang" if kind == "hang" else "503" if kind == "503" else "refuse")
