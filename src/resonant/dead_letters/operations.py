"""Operator actions on deliveries: replay, cancel, purge. Each transaction also counts its changes in the audit."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import case, delete, func, select, update

from resonant.store import schema
from resonant.store.audit import add_to_audit
from resonant.store.counts.acceptances import add_to_ledger
from resonant.store.counts.counters import Tally, count_retries
from resonant.store.counts.sketches import begin_of
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.causes import Cause, cause_ids
from resonant.store.queue.leases import leases_of
from resonant.store.queue.locked_rows import change_all
from resonant.store.views.dead_letters import DeadLetters, Key, is_after

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from resonant.events import Lease
    from resonant.store.views.selection import Selection

_d = schema.deliveries
Final = Literal["dead_letter", "delivered"]


class Replayed(NamedTuple):
    """Dead letters taken out of the queue, oldest first, and the place of the last."""

    leases: list[Lease]
    last: Key | None


def replay(
    connection: Connection,
    selection: Selection,
    *,
    died_before: float,
    include_permanent: bool = False,
    without_endpoints: Collection[str] = (),
    limit: int,
    owner: str,
    now: float,
    lease_seconds: float,
    audit_id: int | None = None,
    after: Key | None = None,
) -> Replayed:
    """Begin a new round for up to ``limit`` dead letters, oldest first, and lease them. Their history is kept.

    Concurrent replays never take the same dead letter: each skips the rows that the other has locked, and a taken
    delivery is no longer a dead letter. The leases of a killed replay expire, like those of any worker.

    Args:
        connection: in a write transaction.
        selection: selects the dead letters.
        died_before: the replay's start, seconds since the epoch, so that no dead letter is taken twice.
        include_permanent: include permanent failures.
        without_endpoints: skip the dead letters of these endpoints.
        limit: the maximum number.
        owner: the owner of the leases.
        now: seconds since the epoch.
        lease_seconds: the duration of the leases.
        audit_id: the id that ``begin_audit`` returned.
        after: continue after this dead letter, which avoids a scan of skipped rows.
    """
    dead_letters = DeadLetters.of(
        connection, selection, include_permanent=include_permanent, without_endpoints=without_endpoints
    )
    conditions = [*dead_letters.conditions(), _d.c.finished_at < died_before]
    picked = pick_final(connection, conditions, limit=limit, after=after)
    if not picked:
        return Replayed([], None)
    place = {key.id: number for number, key in enumerate(picked)}
    _take_back(connection, picked, now=now)
    rows = connection.execute(
        update(_d)
        .where(is_any_of(_d.c.id, list(place)))
        .values(
            # A delivery cancelled before its first attempt becomes pending again.
            status=case((_d.c.attempts == 0, "pending"), else_="retrying"),
            round=_d.c.round + 1,
            round_started_at=now,
            round_attempts=0,
            crashes=0,
            last_delay=None,
            backoff_until=None,
            reason=None,
            finished_at=None,
            next_attempt_at=now,
            available_at=now + lease_seconds,
            lease_owner=owner,
            lease_token=_d.c.lease_token + 1,
            sending=False,
        )
        .returning(_d)
    ).all()
    tally = Tally(now)
    for (endpoint, event_type), count in Counter((row.endpoint, row.event_type) for row in rows).items():
        tally.add("replay", endpoint, event_type, "replayed", count=count)
    tally.write(connection)
    add_to_audit(connection, audit_id, len(rows))
    leases = sorted(leases_of(connection, rows), key=lambda lease: place[lease.delivery_id])
    return Replayed(leases, picked[-1])


def _take_back(connection: Connection, picked: Sequence[Key], *, now: float) -> None:
    """Subtract each dead letter from the statistics of the hour in which it was given up."""
    query = select(_d.c.endpoint, _d.c.event_type, _d.c.reason, _d.c.finished_at, _d.c.attempts)
    tallies: dict[int, Tally] = {}
    for endpoint, event_type, reason, finished_at, attempts in connection.execute(
        query.where(is_any_of(_d.c.id, [key.id for key in picked]))
    ):
        begin = begin_of(finished_at, now=now)
        tally = tallies.setdefault(begin, Tally(begin))
        retries = attempts - 1 if attempts else None
        tally.add("replayed", endpoint, event_type, "dead_letter", detail=reason, seconds=retries)
    for tally in tallies.values():
        tally.write(connection)


def look_for_unfinished(
    connection: Connection, selection: Selection, *, accepted_until: float, limit: int, after: int = 0
) -> list[int]:
    """Find up to ``limit`` selected unfinished deliveries, without locks; return their ids, sorted.

    Args:
        connection: open.
        selection: selects the deliveries; its times are acceptance times.
        accepted_until: skip deliveries accepted later, seconds since the epoch; otherwise a busy producer could keep the
            search running.
        limit: the maximum number.
        after: continue after this delivery.
    """
    key = schema.id_without_index
    query = select(_d.c.id).where(*_unfinished(selection), _d.c.accepted_at <= accepted_until, key > after)
    return list(connection.execute(query.order_by(key).limit(limit)).scalars())


def cancel(
    connection: Connection,
    selection: Selection,
    *,
    limit: int,
    now: float,
    among: Collection[int] | None = None,
    audit_id: int | None = None,
) -> int:
    """Cancel up to ``limit`` unfinished deliveries, with reason ``cancelled``; deliveries being sent now are skipped.

    If a delivery waits for a retry in some process, that process loses its lease. The transaction
    waits for rows that another one has locked; skipped rows would be missed.

    Args:
        connection: in a write transaction.
        selection: selects the deliveries; its times are acceptance times.
        limit: the maximum number.
        now: seconds since the epoch.
        among: only these deliveries, which ``look_for_unfinished`` found.
        audit_id: the id that ``begin_audit`` returned.

    Returns:
        The number of cancelled deliveries.
    """
    unfinished = [*_unfinished(selection), _d.c.sending.is_(False)]
    if among is not None:
        unfinished.append(is_any_of(_d.c.id, among))
    query = select(_d).where(*unfinished).order_by(schema.id_without_index).limit(limit)
    rows = connection.execute(query.with_for_update(key_share=True)).all()
    by_cause: defaultdict[Cause, list[int]] = defaultdict(list)
    tally = Tally(now)
    for row in rows:
        error = (row.category, row.code, row.error_type, row.error)
        by_cause[Cause.of(row.endpoint, row.event_type, "cancelled", *error)].append(row.id)
        labels = (row.endpoint, row.event_type, "dead_letter", row.category, row.code)
        tally.add("delivery", *labels, detail="cancelled", seconds=now - row.accepted_at)
        count_retries(tally, (row.endpoint, row.event_type), row.attempts)
    final: dict[str, Any] = {
        "status": "dead_letter",
        "reason": "cancelled",
        "finished_at": now,
        "next_attempt_at": None,
        "backoff_until": None,
        "available_at": None,
        "lease_owner": None,
        "lease_token": _d.c.lease_token + 1,
    }
    for cause, cause_id in cause_ids(connection, by_cause).items():
        change_all(connection, by_cause[cause], {**final, "cause_id": cause_id})
    tally.write(connection)
    add_to_audit(connection, audit_id, len(rows))
    return len(rows)


def _unfinished(selection: Selection) -> list[ColumnElement[bool]]:
    return [_d.c.available_at.is_not(None), *selection.of_unfinished()]


class Cancellable(NamedTuple):
    """The effect of a cancellation now.

    Attributes:
        number: deliveries that would be given up.
        being_sent: selected deliveries that are being sent, and would not be cancelled.
    """

    number: int
    being_sent: int

    def __str__(self) -> str:
        left = f"; {self.being_sent:,} being sent now would not be cancelled" if self.being_sent else ""
        return f"{self.number:,} would be given up{left}"


def cancellable(connection: Connection, selection: Selection) -> Cancellable:
    """Count the deliveries that ``cancel`` would give up now."""
    query = select(_d.c.sending, func.count()).where(*_unfinished(selection)).group_by(_d.c.sending)
    counts = {bool(sending): number for sending, number in connection.execute(query)}
    return Cancellable(counts.get(False, 0), counts.get(True, 0))


def purgeable(status: Final, *, finished_before: float) -> list[ColumnElement[bool]]:
    """Return the conditions for purgeable deliveries: those with this final status that ended by this time."""
    is_status = schema.is_dead_letter if status == "dead_letter" else schema.is_delivered
    return [is_status, _d.c.finished_at <= finished_before]


def purge(
    connection: Connection, delivery_ids: Sequence[int], *, now: float, audit_id: int | None = None
) -> int:
    """Remove these deliveries permanently, with their history and the events that no other delivery needs.

    Args:
        connection: in a write transaction.
        delivery_ids: locked in the same transaction, by ``lock_final`` or ``pick_final``.
        now: seconds since the epoch.
        audit_id: the id that ``begin_audit`` returned.
    """
    if not delivery_ids:
        return 0
    connection.execute(delete(schema.attempts).where(is_any_of(schema.attempts.c.delivery_id, delivery_ids)))
    rows = connection.execute(
        delete(_d)
        .where(is_any_of(_d.c.id, delivery_ids))
        .returning(_d.c.event_id, _d.c.endpoint, _d.c.event_type, _d.c.status)
    ).all()
    events = schema.events
    connection.execute(
        delete(events).where(
            is_any_of(events.c.id, [row.event_id for row in rows]),
            ~select(_d.c.id).where(_d.c.event_id == events.c.id).exists(),
        )
    )
    tally = Tally(now)
    kinds = Counter((row.endpoint, row.event_type, row.status) for row in rows)
    for (endpoint, event_type, status), count in kinds.items():
        tally.add("purge", endpoint, event_type, status, count=count)
    tally.write(connection)
    add_to_ledger(connection, "purged", Counter(row.endpoint for row in rows))
    add_to_audit(connection, audit_id, len(rows))
    return len(rows)


def pick_final(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    *,
    limit: int,
    after: Key | None = None,
) -> list[Key]:
    """Lock up to ``limit`` final deliveries, earliest ended first; skip rows that another transaction has locked.

    Args:
        connection: in a write transaction.
        conditions: select the deliveries.
        limit: the maximum number.
        after: continue after this one, which avoids a scan of skipped rows.
    """
    query = _longest_ended(conditions, limit=limit, after=after).with_for_update(skip_locked=True)
    return [Key(*row) for row in connection.execute(query)]


def look_for_final(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    *,
    limit: int,
    most_bytes: int,
    after: Key | None = None,
) -> list[Key]:
    """Find final deliveries, earliest ended first, without locks; return at least one if any exist.

    Args:
        connection: open.
        conditions: select the deliveries.
        limit: the maximum number.
        most_bytes: the maximum total size of their events; a single larger event is returned too.
        after: continue after this one.
    """
    events = schema.events
    query = _longest_ended(conditions, limit=limit, after=after).add_columns(func.length(events.c.body))
    query = query.join(events, events.c.id == _d.c.event_id)
    found: list[Key] = []
    total = 0
    for finished_at, delivery_id, size in connection.execute(query):
        total += size
        if found and total > most_bytes:
            break
        found.append(Key(finished_at, delivery_id))
    return found


def _longest_ended(
    conditions: Sequence[ColumnElement[bool]], *, limit: int, after: Key | None
) -> Select[Any]:
    key = (_d.c.finished_at, _d.c.id)
    query = select(*key).where(*conditions).order_by(*key).limit(limit)
    return query if after is None else query.where(is_after(after))


def lock_final(
    connection: Connection, picked: Sequence[Key], conditions: Sequence[ColumnElement[bool]]
) -> list[int]:
    """Lock the deliveries that still meet the conditions, and their events; return their ids.

    A delivery is skipped if another transaction has locked it or its event, so a purge waits for neither.
    """
    query = select(_d.c.id).where(is_any_of(_d.c.id, [key.id for key in picked]), *conditions)
    if connection.dialect.name == "postgresql":
        events = schema.events
        query = query.join(events, events.c.id == _d.c.event_id)
        query = query.with_for_update(skip_locked=True, of=[_d, events])
    return list(connection.execute(query).scalars())


def read_history(connection: Connection, delivery_ids: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield each delivery with its event and attempts as plain columns, for the archive."""
    attempts: defaultdict[int, list[dict[str, object]]] = defaultdict(list)
    table = schema.attempts
    query = select(table).where(is_any_of(table.c.delivery_id, delivery_ids)).order_by(table.c.id)
    for row in connection.execute(query).mappings():
        attempts[row["delivery_id"]].append(dict(row))
    found = (
        connection.execute(select(_d).where(is_any_of(_d.c.id, delivery_ids)).order_by(_d.c.id))
        .mappings()
        .all()
    )
    of_them = is_any_of(schema.events.c.id, [row["event_id"] for row in found])
    events = {
        row["id"]: dict(row) for row in connection.execute(select(schema.events).where(of_them)).mappings()
    }
    for row in found:
        yield {
            "event": events[row["event_id"]],
            "delivery": dict(row),
            "attempts": attempts[row["id"]],
        }


def count(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> int:
    """Return the number of deliveries that meet the conditions."""
    return connection.execute(select(func.count()).select_from(_d).where(*conditions)).scalar_one()


def count_final(connection: Connection) -> int:
    """Return the number of final deliveries, which two indexes count."""
    return count(connection, [schema.is_dead_letter]) + count(connection, [schema.is_delivered])
