"""The data of the statistics: attempts and deliveries of a window, and new ones since the last export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import case, func, or_, select

from resonant.metrics.frames import read_frame
from resonant.store import schema
from resonant.store.sql import is_any_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from sqlalchemy import Case, Connection

    from resonant.metrics.frames import Pass


_d, _a, _c = schema.deliveries, schema.attempts, schema.causes
# Few rows at once, since Python's garbage collector scans all live rows again and again.
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Window:
    """The history from ``since`` until ``until`` (seconds since the epoch), without what was purged.

    Texts are categories to save memory.

    Attributes:
        attempts: those that began since then, without late ones; ``endpoint, event_type, number, started_at, duration,
            result, category, code, error_type``; ``policy``, the name requested by the producer, if any; and if a retry
            follows: ``delay``, seconds; ``round_attempt``, the attempt's number in its round as the policy counts,
            without lost and early ones; ``retry_after``, seconds, if the endpoint asked for a wait.
        deliveries: those that ended since then, and all unfinished ones; ``endpoint, event_type, status, reason,
            accepted_at, finished_at, attempts``.
    """

    since: float
    until: float
    attempts: pd.DataFrame
    deliveries: pd.DataFrame


class Mark(NamedTuple):
    """An attempt that identifies a store."""

    id: int
    delivery_id: int
    started_at: float


class Run(NamedTuple):
    """Consecutive ids, including both ends."""

    first: int
    last: int


class Recorded(NamedTuple):
    """An attempt, and the current state of its delivery; see ``Window`` for the common columns."""

    id: int
    number: int
    started_at: float
    duration: float
    result: str
    category: str | None
    code: str | None
    error_type: str | None
    delay: float | None
    retry_after: float | None
    delivery_id: int
    endpoint: str
    event_type: str
    policy: str | None
    status: str
    reason: str | None
    accepted_at: float
    finished_at: float
    attempts: int
    round: int
    round_attempt: int | None

    @property
    def is_end(self) -> bool:
        """Whether it ended its delivery, and the delivery was not replayed since. Only cancellations end without an attempt."""
        is_final = self.status in {"delivered", "dead_letter"} and self.reason != "cancelled"
        return is_final and self.number == self.attempts


class End(NamedTuple):
    """A delivery that was cancelled and not replayed since."""

    delivery_id: int
    endpoint: str
    event_type: str
    status: str
    reason: str
    accepted_at: float
    finished_at: float
    attempts: int
    round: int


class Unfinished(NamedTuple):
    """The number of unfinished deliveries with this number of attempts."""

    endpoint: str
    event_type: str
    attempts: int
    number: int


def read_window(
    connection: Connection,
    *,
    now: float,
    since: float,
    passed: Pass = iter,
) -> Window:
    """Read the history since a time.

    Args:
        connection: open.
        now: seconds since the epoch.
        since: seconds since the epoch.
        passed: iterates over the pages of rows; it can count them, or stop.
    """
    attempts = (
        select(
            *(_d.c.endpoint, _d.c.event_type, _a.c.number, _a.c.started_at, _a.c.duration, _a.c.result),
            *(_a.c.category, _a.c.code, _a.c.error_type, _d.c.policy, _a.c.delay, _a.c.retry_after),
            _round_attempt().label("round_attempt"),
        )
        .join(_d, _d.c.id == _a.c.delivery_id)
        .where(_a.c.started_at >= since, _a.c.late.is_(False))
    )
    deliveries = select(
        *(_d.c.endpoint, _d.c.event_type, _d.c.status, _d.c.reason, _d.c.accepted_at, _d.c.finished_at),
        _d.c.attempts,
    ).where(or_(_d.c.finished_at >= since, _d.c.available_at.is_not(None)))
    return Window(
        since, now, read_frame(connection, attempts, passed), read_frame(connection, deliveries, passed)
    )


def read_purged(connection: Connection) -> int:
    """Return how many deliveries were ever purged. A purge removes rows that may have been read before."""
    return int(connection.execute(select(func.coalesce(func.sum(schema.endpoints.c.purged), 0))).scalar_one())


def has_mark(connection: Connection, mark: Mark | None) -> bool:
    """Return whether the store contains this attempt; True for None."""
    if mark is None:
        return True
    query = select(_a.c.id, _a.c.delivery_id, _a.c.started_at).where(_a.c.id == mark.id)
    return connection.execute(query).one_or_none() == tuple(mark)


def read_newest(connection: Connection) -> Mark | None:
    """Return the attempt with the highest id; None if there are no attempts."""
    newest = select(_a.c.id, _a.c.delivery_id, _a.c.started_at).order_by(_a.c.id.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return None if row is None else Mark(*row)


def gives_ids_before_commit(connection: Connection) -> bool:
    """Return whether an attempt may appear after one with a higher id; this cannot happen with a single writer."""
    return connection.dialect.name != "sqlite"


def read_runs(connection: Connection, *, after: int, until: int) -> list[Run]:
    """Return the ids of attempts above ``after`` and up to ``until``, including late ones, as runs without gaps."""
    place = func.row_number().over(order_by=_a.c.id)
    ids = select(_a.c.id, (_a.c.id - place).label("run")).where(_a.c.id > after, _a.c.id <= until).subquery()
    first = func.min(ids.c.id)
    query = select(first, func.max(ids.c.id)).group_by(ids.c.run).order_by(first)
    return list(map(Run._make, connection.execute(query)))


def each_recorded(connection: Connection, ids: Run, *, since: float | None) -> Iterator[list[Recorded]]:
    """Yield attempts in the order of their ids, without late ones; reads pages, so that memory stays flat.

    Args:
        connection: open.
        ids: only attempts with these ids.
        since: only attempts that began, or whose delivery ended, since then, seconds since the epoch; None for all.
    """
    query = (
        select(
            *(_a.c.id, _a.c.number, _a.c.started_at, _a.c.duration, _a.c.result, _a.c.category, _a.c.code),
            *(_a.c.error_type, _a.c.delay, _a.c.retry_after, _a.c.delivery_id, _d.c.endpoint),
            *(_d.c.event_type, _d.c.policy, _d.c.status, _d.c.reason, _d.c.accepted_at, _d.c.finished_at),
            *(_d.c.attempts, _d.c.round, _round_attempt().label("round_attempt")),
        )
        .join(_d, _d.c.id == _a.c.delivery_id)
        .where(_a.c.late.is_(False), _a.c.id <= ids.last)
        .order_by(_a.c.id)
        .limit(_PAGE)
    )
    if since is not None:
        query = query.where(or_(_a.c.started_at >= since, _d.c.finished_at >= since))
    first = ids.first
    while page := list(map(Recorded._make, connection.execute(query.where(_a.c.id >= first)).all())):
        yield page
        first = page[-1].id + 1


def read_unfinished(connection: Connection) -> list[Unfinished]:
    """Count the unfinished deliveries by their number of attempts."""
    key = (_d.c.endpoint, _d.c.event_type, _d.c.attempts)
    query = select(*key, func.count()).where(_d.c.available_at.is_not(None)).group_by(*key)
    return list(map(Unfinished._make, connection.execute(query)))


def read_replayed(connection: Connection) -> list[int]:
    """Return the ids of unfinished deliveries that were dead letters before."""
    query = select(_d.c.id).where(_d.c.available_at.is_not(None), _d.c.round > 1)
    return list(connection.execute(query).scalars())


def read_cancelled(connection: Connection, *, since: float) -> list[End]:
    """Return the deliveries cancelled since a time, seconds since the epoch; found by their few causes."""
    causes = connection.execute(select(_c.c.id).where(_c.c.reason == "cancelled")).scalars().all()
    if not causes:
        return []
    query = select(
        *(_d.c.id, _d.c.endpoint, _d.c.event_type, _d.c.status, _d.c.reason, _d.c.accepted_at),
        *(_d.c.finished_at, _d.c.attempts, _d.c.round),
    ).where(schema.is_dead_letter, is_any_of(_d.c.cause_id, causes), _d.c.finished_at >= since)
    return list(map(End._make, connection.execute(query)))


def _round_attempt() -> Case[int]:
    """Count the attempts of a round up to this one, only if a retry follows; others need no lookup."""
    before = _a.alias("before")
    number = (
        select(func.count())
        .where(
            *(before.c.delivery_id == _a.c.delivery_id, before.c.round == _a.c.round),
            *(before.c.number <= _a.c.number, before.c.result != "lost", before.c.late.is_(False)),
            before.c.early.is_(False),
        )
        .correlate(_a)
        .scalar_subquery()
    )
    return case((_a.c.delay.is_not(None), number))
