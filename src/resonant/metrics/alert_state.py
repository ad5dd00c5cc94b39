"""The recent activity that alerts depend on, and the raised alerts.

A crossing is decided once, by a compare-and-set that stores it together with the new state. It is announced afterwards, and
cleared last. If a process is killed in between, the next one announces the same crossing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, and_, case, cast, func, or_, select, union_all, update

from resonant.metrics.alerts import Condition, Crossing, Key
from resonant.metrics.conditions import Activity
from resonant.store import schema
from resonant.store.sql import insert_into

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Connection, Subquery

_t = schema.alerts
_HOUR, _DAY = 3600, 86_400


def read_activity(connection: Connection, *, now: float, window: float) -> dict[str, Activity]:
    """Count the recent activity of each endpoint.

    Args:
        connection: in a transaction.
        now: seconds since the epoch.
        window: the window of attempts and retries, in seconds.
    """
    end = int(now)
    recent, hour = int(now - window), end - _HOUR
    day_before = (end - _DAY - _HOUR, end - _DAY)
    c = _counted(since=min(recent, hour), and_between=day_before).c
    is_recent, is_of_hour = c.minute >= recent, c.minute >= hour
    is_of_day_before = c.minute.between(*day_before)
    is_ended = and_(c.measure == "attempt", c.result != "lost")  # the result of a lost attempt is unknown
    is_failed = and_(is_ended, c.result != "delivered")
    conditions = {
        "attempts": (is_ended, is_recent),
        "failed": (is_failed, is_recent),
        "retried": (c.measure == "retry_delay", is_recent),
        "dead_letters": (c.measure == "delivery", is_of_hour),  # only dead letters are read
        "replayed": (c.measure == "replay", is_of_hour),
        "timed": (is_ended, is_of_hour),
        "timed_failed": (is_failed, is_of_hour),
        "timed_before": (is_ended, is_of_day_before),
        "timed_failed_before": (is_failed, is_of_day_before),
    }
    query = select(
        c.endpoint,
        # PostgreSQL returns a sum of integers as numeric.
        *(cast(_sum(c["count"], *each), BigInteger).label(name) for name, each in conditions.items()),
        _sum(c.total, is_ended, is_of_hour).label("seconds"),
        _sum(c.total, is_ended, is_of_day_before).label("seconds_before"),
    ).group_by(c.endpoint)
    given_up = _read_given_up(connection, since=hour)
    found = {}
    for row in connection.execute(query):
        values = row._asdict()
        endpoint, replayed = values.pop("endpoint"), values.pop("replayed")
        values["dead_letters"] = min(values["dead_letters"] - replayed, given_up.get(endpoint, 0))
        found[endpoint] = Activity(**values)
    return found


def read_raised(connection: Connection) -> dict[Key, float]:
    """Return the raised alerts and their start times, in seconds since the epoch."""
    query = select(_t.c.condition, _t.c.endpoint, _t.c.raised_at).where(_t.c.raised_at.is_not(None))
    known = set(Condition)  # a newer version may have stored others
    return {
        Key(Condition(condition), endpoint): at
        for condition, endpoint, at in connection.execute(query)
        if condition in known
    }


def record_crossings(connection: Connection, crossings: Iterable[Crossing]) -> None:
    """Store crossings, to be announced later. If another process was faster, its crossing is kept."""
    insert = insert_into(connection.dialect.name, _t)
    is_announced = _t.c.unannounced.is_(None)
    for crossing in sorted(crossings, key=lambda each: each.key):
        condition, endpoint = crossing.key
        text = crossing.to_json()
        if crossing.what == "raised":
            values: dict[str, Any] = {"raised_at": crossing.at, "unannounced": text}
            connection.execute(
                insert.values(condition=condition, endpoint=endpoint, **values).on_conflict_do_update(
                    index_elements=["condition", "endpoint"],
                    set_=values,
                    where=and_(_t.c.raised_at.is_(None), is_announced),
                )
            )
        else:
            connection.execute(
                update(_t)
                .where(_is(crossing.key), _t.c.raised_at.is_not(None), is_announced)
                .values(raised_at=None, unannounced=text)
            )


def read_unannounced(connection: Connection) -> list[Crossing]:
    """Return the crossings that are not announced yet."""
    query = select(_t.c.unannounced).where(_t.c.unannounced.is_not(None)).order_by(*_t.primary_key.columns)
    return [Crossing.from_json(text) for text in connection.execute(query).scalars()]


def note_announced(connection: Connection, crossings: Iterable[Crossing]) -> None:
    """Record that these crossings were announced."""
    for crossing in sorted(crossings, key=lambda each: each.key):
        connection.execute(
            update(_t)
            .where(_is(crossing.key), _t.c.unannounced == crossing.to_json())
            .values(unannounced=None)
        )


def _read_given_up(connection: Connection, *, since: int) -> dict[str, int]:
    """Count the dead letters given up since this time, by endpoint, without cancelled ones.

    This is an upper bound for the counters, which include cancelled deliveries. It is not sufficient alone: a replayed delivery
    that fails again would count as new.
    """
    d, causes = schema.deliveries.c, schema.causes.c
    query = (
        select(causes.endpoint, func.count())
        .join_from(schema.deliveries, schema.causes, causes.id == d.cause_id)
        .where(schema.is_dead_letter, d.finished_at >= since, causes.reason != "cancelled")
        .group_by(causes.endpoint)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _counted(*, since: int, and_between: tuple[int, int]) -> Subquery:
    """Select the counts since a time and within a range, in seconds since the epoch; of deliveries, only dead letters.

    Recent minutes are in the rollups, earlier ones in the history; a minute with a late write is in both. Nothing outside
    these ranges is read.
    """
    names = ("minute", "measure", "endpoint", "result", "count", "total")
    return union_all(
        *(
            select(*(table.c[name] for name in names)).where(
                or_(table.c.minute >= since, table.c.minute.between(*and_between)),
                table.c.measure.in_(["attempt", "delivery", "retry_delay", "replay"]),
                or_(table.c.measure != "delivery", table.c.result == "dead_letter"),
            )
            for table in (schema.rollups, schema.rollup_history)
        )
    ).subquery()


def _sum(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.sum(case((and_(*conditions), column), else_=0))


def _is(key: Key) -> ColumnElement[bool]:
    return and_(_t.c.condition == key.condition, _t.c.endpoint == key.endpoint)
