"""The history of an endpoint in the store: its outages and its latest answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal, NamedTuple

from sqlalchemy import func, select, union_all

from resonant.store import schema, tallies
from resonant.store.counter_compaction import MINUTES_KEPT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

OutageKind = Literal["refuse", "503", "hang"]

DAYS = 30
# Limits of the queries: attempts of all endpoints, and rows of counters.
MOST_ATTEMPTS = 100_000
_MOST_ROWS = 50_000
# An outage is at least this many failures without a delivery. A longer pause between failures ends it.
_FEWEST_FAILURES = 5
_LONGEST_PAUSE = 3 * 3600.0
_MINUTE, _HOUR = 60.0, 3600.0
_TIMEOUTS = ("timeout", "read_timeout", "write_timeout", "connect_timeout")
_THROTTLED = 429
_a, _d = schema.attempts.c, schema.deliveries.c


class Outage(NamedTuple):
    """A time in which attempts failed and none was delivered: seconds since the epoch, and how they failed."""

    start: float
    end: float
    kind: OutageKind

    @property
    def seconds(self) -> float:
        """How long it lasted."""
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


class _Span(NamedTuple):
    """The counts of a minute, or of an hour if its minutes are no longer kept."""

    start: float
    delivered: int
    failures: Counter[str]


@dataclass(frozen=True, slots=True)
class History:
    """The history of an endpoint.

    Attributes:
        since, until: the time that the counters were read for, seconds since the epoch.
        delivered, failed: attempts in that time.
        outages: in chronological order.
        attempts: the latest attempts, in chronological order.
    """

    endpoint: str
    since: float
    until: float
    delivered: int
    failed: int
    outages: tuple[Outage, ...]
    attempts: tuple[Answered, ...]

    @property
    def longest_outage(self) -> Outage | None:
        """The longest outage."""
        return max(self.outages, key=lambda each: each.seconds, default=None)

    @property
    def durations(self) -> list[float]:
        """How long the latest deliveries took, in seconds, the shortest first."""
        return sorted(each.duration for each in self.attempts if each.is_delivered)

    @property
    def timeouts(self) -> int:
        """The latest attempts that ended without an answer in time."""
        return sum(each.code in _TIMEOUTS for each in self.attempts)

    @property
    def throttled(self) -> int:
        """The latest attempts that were answered by 429."""
        return sum(each.status_code == _THROTTLED for each in self.attempts)

    @property
    def retry_after(self) -> float | None:
        """The usual Retry-After, in seconds; None without one."""
        asked = [each.retry_after for each in self.attempts if each.retry_after]
        return median(asked) if asked else None

    @property
    def share_failed(self) -> float:
        """The share of the latest attempts that failed at random: not in an outage, not for good, and not by 429."""
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
        """Deliveries per second, on average over the time in which there were attempts."""
        return self.delivered / (self.until - self.since) if self.until > self.since else 0.0

    @property
    def capacity(self) -> float | None:
        """How many requests per second it accepts at most, by the seconds in which it also answered 429; None if unknown."""
        accepted, refused = Counter[int](), Counter[int]()
        for each in self.attempts:
            second = int(each.started_at + each.duration)
            accepted[second] += each.is_delivered
            refused[second] += each.status_code == _THROTTLED
        at_the_limit = [accepted[second] for second in refused if refused[second] and accepted[second]]
        return float(median(at_the_limit)) if len(at_the_limit) >= 3 else None  # noqa: PLR2004 - fewer are chance


def read_history(connection: Connection, endpoint: str, *, now: float) -> History:
    """Read an endpoint's history of the last 30 days, as far as it is kept.

    Outages of the last day are exact to the minute, older ones to the hour. Single attempts are read from the latest
    ``MOST_ATTEMPTS`` of the whole store.
    """
    since = now - DAYS * 86_400
    attempts = _read_attempts(connection, endpoint)
    spans = _read_spans(connection, endpoint, since) or _spans_of(attempts)
    first = min(
        [*(each.start for each in spans[:1]), *(each.started_at for each in attempts[:1])], default=now
    )
    return History(
        endpoint=endpoint,
        since=max(since, first),
        until=now,
        delivered=sum(each.delivered for each in spans),
        failed=sum(each.failures.total() for each in spans),
        outages=tuple(_outages(spans, now)),
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


def _read_spans(connection: Connection, endpoint: str, since: float) -> list[_Span]:
    both = union_all(
        *(
            select(table.c.minute, table.c.result, table.c.category, table.c.code, table.c["count"])
            .where(
                *(table.c.measure == "attempt", table.c.minute >= int(since)),
                *(table.c.endpoint == endpoint, table.c.result != "lost"),
            )
            .order_by(table.c.minute.desc())
            .limit(_MOST_ROWS)
            .subquery()
            .select()
            for table in (schema.rollups, schema.rollup_history)
        )
    ).subquery()
    kinds = (both.c.minute, both.c.result, both.c.category, both.c.code)
    query = select(*kinds, func.sum(both.c["count"])).group_by(*kinds).order_by(both.c.minute)
    delivered: Counter[int] = Counter()
    failures: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for minute, result, category, code, count in connection.execute(query):
        if result == "delivered":
            delivered[minute] += int(count)
        else:
            failures[minute][_kind(category, code)] += int(count)
    for row in tallies.read_rows(connection, since=since):
        if (row["measure"], row["endpoint"]) != ("attempt", endpoint) or row["result"] == "lost":
            continue
        if row["result"] == "delivered":
            delivered[row["minute"]] += row["count"]
        else:
            failures[row["minute"]][_kind(row["category"], row["code"])] += row["count"]
    starts = sorted({*delivered, *failures})
    return [_Span(float(start), delivered[start], failures[start]) for start in starts]


def _spans_of(attempts: Iterable[Answered]) -> list[_Span]:
    """Count attempts by the minute, if the store has no counters."""
    spans: dict[float, _Span] = {}
    for each in attempts:
        start = each.started_at // _MINUTE * _MINUTE
        before = spans.get(start) or _Span(start, 0, Counter())
        before.failures.update([] if each.is_delivered else [_kind(each.category, each.code)])
        spans[start] = before._replace(delivered=before.delivered + each.is_delivered)
    return [spans[start] for start in sorted(spans)]


def _kind(category: str | None, code: str | None) -> str:
    """Return how an endpoint failed: the kind of an outage, or `answered` if the answer concerns the event."""
    code = code or ""
    if code in _TIMEOUTS:
        return "hang"
    if code.startswith("http_5") or code == "throttled":
        return "503"
    return "answered" if category == "permanent" and code.startswith("http_") else "refuse"


def _outages(spans: Sequence[_Span], now: float) -> Iterable[Outage]:
    failures: Counter[str] = Counter()
    start = end = 0.0
    for span in spans:
        length = _MINUTE if span.start > now - MINUTES_KEPT_SECONDS else _HOUR
        down = span.failures.total() - span.failures["answered"]
        is_down = down > 0 and not span.delivered and not span.failures["answered"]
        if failures and (not is_down or span.start - end > _LONGEST_PAUSE):
            reached = end if span.start - end > _LONGEST_PAUSE else span.start
            yield from _outage(start, reached, failures)
            failures = Counter()
        if is_down:
            start = start if failures else span.start
            end = min(now, span.start + length)
            failures += span.failures
    yield from _outage(start, end, failures)


def _outage(start: float, end: float, failures: Counter[str]) -> Iterable[Outage]:
    if failures.total() >= _FEWEST_FAILURES:
        kind = failures.most_common(1)[0][0]
        yield Outage(start, end, "hang" if kind == "hang" else "503" if kind == "503" else "refuse")
