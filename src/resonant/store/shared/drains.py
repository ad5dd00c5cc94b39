"""The runs that report that they are alive. Drains are those that continue until newer ones have taken over."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from resonant.events import Clock
from resonant.store import schema

# A drain reports every BEAT_SECONDS, and counts as dead LIVE_SECONDS after its last report.
BEAT_SECONDS, LIVE_SECONDS = 3.0, 10.0
_KEPT_SECONDS = 3600.0
# The endpoint of a run that is not a drain, so that it counts as no drain's successor.
NO_DRAIN = ""
# A run that is not a drain sends to the endpoints from which it has claimed.
_RECENT_CLAIM_SECONDS = 60.0

_drains, _claims = schema.drains, schema.claims


class Beat(NamedTuple):
    """A report: the drain's key, and the number of live newer drains of the same deliveries."""

    key: int
    younger: int


def beat(
    connection: Connection,
    key: int | None,
    *,
    owner: str,
    endpoint: str | None,
    clock: Clock,
    process: str | None = None,
    clock_ahead: float = 0.0,
) -> Beat:
    """Report that a run is alive.

    Args:
        connection: in a write transaction.
        key: the key of its last report; None for the first report.
        owner: the owner of its leases.
        endpoint: the only endpoint that it sends to; None for all; ``NO_DRAIN`` if it is not a drain.
        clock: seconds since the epoch, read after the wait for the lock.
        process: the name of its process; None if it is unknown.
        clock_ahead: how far the store's clock is ahead of the process's, in seconds.
    """
    now = clock()
    seen = _drains.update().where(_drains.c.id == key).values(seen_at=now, clock_ahead=clock_ahead)
    if key is None or not connection.execute(seen).rowcount:
        # A flow run that Prefect starts again is the same owner in another process: the leases of both look alike.
        is_old = or_(_drains.c.seen_at < now - _KEPT_SECONDS, _drains.c.owner == owner)
        connection.execute(_drains.delete().where(is_old))
        facts = {"owner": owner, "endpoint": endpoint, "process": process, "clock_ahead": clock_ahead}
        new = _drains.insert().values(seen_at=now, **facts)
        key = int(connection.execute(new.returning(_drains.c.id)).scalar_one())
    younger = (
        select(func.count())
        .select_from(_drains)
        .where(
            _drains.c.id > key,
            _drains.c.endpoint.is_not_distinct_from(endpoint),
            *_is_alive(now),
        )
    )
    return Beat(key, int(connection.execute(younger).scalar_one()))


def ended_owners(
    connection: Connection, has_ended: Callable[[str], bool], *, among: list[str] | None = None
) -> list[str]:
    """Return the owners whose processes have ended.

    Args:
        has_ended: returns whether the process with this name has ended for sure.
        among: only these owners. Their rows are locked, so that no other process becomes a drain with such an owner meanwhile.
    """
    query = select(_drains.c.owner, _drains.c.process).order_by(_drains.c.id)
    if among is not None:
        query = query.where(_drains.c.owner.in_(among)).with_for_update()
    ended: dict[str, bool] = {}
    for owner, process in connection.execute(query):
        ended[owner] = ended.get(owner, True) and process is not None and has_ended(process)
    return [owner for owner, has_all in ended.items() if has_all]


def forget(connection: Connection, owners: list[str], *, now: float) -> None:
    """Remove the last reports of ended owners: after a while, since the server may still commit a claim of a killed process.

    Args:
        connection: in a write transaction.
        owners: the result of ``ended_owners``.
    """
    is_old = _drains.c.seen_at < now - LIVE_SECONDS
    connection.execute(_drains.delete().where(_drains.c.owner.in_(owners), is_old))


def live_owners(connection: Connection, *, now: float, lease_seconds: float) -> set[str]:
    """Return the owners of the leases of all runs that may be alive, even if an outage kept them from reporting."""
    may_be_alive = _is_alive(now, at_least=lease_seconds)
    return set(connection.execute(select(_drains.c.owner).where(*may_be_alive)).scalars())


def farthest_clock(connection: Connection, *, now: float) -> float:
    """Return how far the store's clock is ahead of the clock of the live run that differs most, in seconds."""
    query = select(_drains.c.clock_ahead).where(*_is_alive(now))
    return max(connection.execute(query).scalars(), key=abs, default=0.0)


def _is_alive(now: float, *, at_least: float = 0.0) -> tuple[ColumnElement[bool], ...]:
    seconds = max(LIVE_SECONDS, at_least)
    # Otherwise, a dead run would count as alive after the clock was set back.
    return _drains.c.seen_at > now - seconds, _drains.c.seen_at < now + seconds


def is_sending(
    connection: Connection, *, now: float, endpoint: str | None = None, ended: str | None = None
) -> bool:
    """Return whether a run that sends deliveries is alive.

    Args:
        endpoint: only to this endpoint; None for any.
        ended: the owner of a run that is ending, and does not count.
    """
    alive = select(_drains.c.id).where(*_is_alive(now))
    if ended is not None:
        alive = alive.where(_drains.c.owner != ended)
    if endpoint is not None:
        is_recent = _claims.c.last_claim_at > now - _RECENT_CLAIM_SECONDS
        has_claimed = exists().where(_claims.c.endpoint == endpoint, is_recent)
        to_it = (_drains.c.endpoint.is_(None), _drains.c.endpoint == endpoint)
        alive = alive.where(or_(*to_it, and_(_drains.c.endpoint == NO_DRAIN, has_claimed)))
    return connection.execute(alive.limit(1)).first() is not None


def sent_to(
    connection: Connection, endpoints: Iterable[str], *, now: float, ended: str | None = None
) -> set[str]:
    """Return the endpoints to which a live run sends; ``ended`` is as for ``is_sending``."""
    alive = select(_drains.c.endpoint).where(*_is_alive(now))
    if ended is not None:
        alive = alive.where(_drains.c.owner != ended)
    found, wanted = set(connection.execute(alive).scalars()), set(endpoints)
    if None in found:
        return wanted
    if NO_DRAIN in found:
        is_recent = _claims.c.last_claim_at > now - _RECENT_CLAIM_SECONDS
        found |= set(connection.execute(select(_claims.c.endpoint).where(is_recent)).scalars())
    return wanted & found


def are_drained(connection: Connection, endpoints: Iterable[str], *, now: float) -> bool:
    """Return whether live drains send to all these endpoints, also what becomes due later."""
    drained = set(connection.execute(select(_drains.c.endpoint).where(*_is_alive(now))).scalars())
    return None in drained or drained.issuperset(endpoints)


def leave(connection: Connection, key: int | None) -> None:
    """Report that a run has ended, so that older drains no longer count it.

    Args:
        connection: in a transaction that writes.
        key: the key of its reports.
    """
    connection.execute(_drains.delete().where(_drains.c.id == key))
