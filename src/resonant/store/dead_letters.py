"""What an operator does to deliveries: replay, cancel, purge. Each leaves its counts, and its caller an audit row."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import case, delete, func, insert, or_, select, update

from resonant.store import schema
from resonant.store.rollups import Tally
from resonant.store.work import leases_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection

    from resonant.events import Lease
    from resonant.store.selection import Selection

_d = schema.deliveries
Final = Literal["dead_letter", "delivered"]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to how many, and by which selection."""

    at: float
    who: str
    action: str
    selection: dict[str, object]
    count: int


def replayable(
    selection: Selection, *, died_before: float, include_permanent: bool
) -> list[ColumnElement[bool]]:
    """Return the conditions for the dead letters that a replay takes.

    Args:
        selection: which.
        died_before: the replay's start, seconds since the epoch: a letter that dies again is not taken again.
        include_permanent: also those whose failure was permanent.
    """
    conditions = [schema.is_dead_letter, _d.c.finished_at < died_before, *selection.conditions()]
    if not include_permanent:
        conditions.append(or_(_d.c.category.is_(None), _d.c.category != "permanent"))
    return conditions


def replay(
    connection: Connection,
    selection: Selection,
    *,
    died_before: float,
    include_permanent: bool = False,
    limit: int,
    owner: str,
    now: float,
    lease_seconds: float,
) -> list[Lease]:
    """Begin a new round for up to ``limit`` dead letters, the oldest first, and lease them; their history stays.

    Two replays at once never take the same letter: what one has locked the other passes over, and what one has taken is
    no dead letter any more. A replay that is killed leaves leases that run out, like any worker.
    """
    conditions = replayable(selection, died_before=died_before, include_permanent=include_permanent)
    picked = pick_final(connection, conditions, limit=limit)
    place = {delivery_id: number for number, delivery_id in enumerate(picked)}
    rows = connection.execute(
        update(_d)
        .where(_d.c.id.in_(picked))
        .values(
            # Cancelled before the first attempt: it goes back to those never tried.
            status=case((_d.c.attempts == 0, "pending"), else_="retrying"),
            round=_d.c.round + 1,
            round_started_at=now,
            round_attempts=0,
            crashes=0,
            last_delay=None,
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
    return sorted(leases_of(connection, rows), key=lambda lease: place[lease.delivery_id])


def cancel(connection: Connection, selection: Selection, *, limit: int, now: float) -> int:
    """Give up to ``limit`` unfinished deliveries up, with reason ``cancelled``; those being sent now are left alone.

    A delivery that waits for a retry in some process is fenced: that process will find its lease gone. What another
    transaction has locked is waited for: passed over, it would be forgotten.
    """
    picked = (
        select(_d.c.id)
        .where(
            _d.c.available_at.is_not(None),
            _d.c.sending.is_(False),
            *selection.conditions(moment=_d.c.accepted_at),
        )
        .order_by(_d.c.id)
        .limit(limit)
        .with_for_update(key_share=True)
        .cte("picked")
    )
    rows = connection.execute(
        update(_d)
        .where(_d.c.id.in_(select(picked.c.id)))
        .values(
            status="dead_letter",
            reason="cancelled",
            finished_at=now,
            next_attempt_at=None,
            available_at=None,
            lease_owner=None,
            lease_token=_d.c.lease_token + 1,
        )
        .returning(_d.c.endpoint, _d.c.event_type, _d.c.category, _d.c.code, _d.c.accepted_at)
    ).all()
    tally = Tally(now)
    for row in rows:
        tally.add(
            "delivery",
            row.endpoint,
            row.event_type,
            "dead_letter",
            category=row.category,
            code=row.code,
            seconds=now - row.accepted_at,
        )
    tally.write(connection)
    return len(rows)


def purgeable(status: Final, *, finished_before: float) -> list[ColumnElement[bool]]:
    """Return the conditions for the final deliveries that a purge takes: those that ended before this moment."""
    is_status = schema.is_dead_letter if status == "dead_letter" else schema.is_delivered
    return [is_status, _d.c.finished_at <= finished_before]


def purge(connection: Connection, delivery_ids: Sequence[int], *, now: float) -> int:
    """Remove these deliveries for good, with their history and with events that nothing else needs.

    Args:
        delivery_ids: from ``pick_final``, in the same transaction.
        now: seconds since the epoch.
    """
    if not delivery_ids:
        return 0
    connection.execute(delete(schema.attempts).where(schema.attempts.c.delivery_id.in_(delivery_ids)))
    rows = connection.execute(
        delete(_d)
        .where(_d.c.id.in_(delivery_ids))
        .returning(_d.c.event_id, _d.c.endpoint, _d.c.event_type, _d.c.status)
    ).all()
    events = schema.events
    connection.execute(
        delete(events).where(
            events.c.id.in_([row.event_id for row in rows]),
            ~select(_d.c.id).where(_d.c.event_id == events.c.id).exists(),
        )
    )
    tally = Tally(now)
    kinds = Counter((row.endpoint, row.event_type, row.status) for row in rows)
    for (endpoint, event_type, status), count in kinds.items():
        tally.add("purge", endpoint, event_type, status, count=count)
    tally.write(connection)
    for endpoint, count in sorted(Counter(row.endpoint for row in rows).items()):
        connection.execute(
            update(schema.endpoints)
            .where(schema.endpoints.c.name == endpoint)
            .values(purged=schema.endpoints.c.purged + count)
        )
    return len(rows)


def pick_final(connection: Connection, conditions: Sequence[ColumnElement[bool]], *, limit: int) -> list[int]:
    """Lock up to ``limit`` final deliveries, the longest ended first; those that another has locked are passed over."""
    query = (
        select(_d.c.id)
        .where(*conditions)
        .order_by(_d.c.finished_at, _d.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(connection.execute(query).scalars())


def read_history(connection: Connection, delivery_ids: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield each delivery with its event and its attempts, as plain columns: what an archive keeps."""
    attempts: defaultdict[int, list[dict[str, object]]] = defaultdict(list)
    table = schema.attempts
    query = select(table).where(table.c.delivery_id.in_(delivery_ids)).order_by(table.c.id)
    for row in connection.execute(query).mappings():
        attempts[row["delivery_id"]].append(dict(row))
    found = connection.execute(select(_d).where(_d.c.id.in_(delivery_ids)).order_by(_d.c.id)).mappings().all()
    of_them = schema.events.c.id.in_([row["event_id"] for row in found])
    events = {
        row["id"]: dict(row) for row in connection.execute(select(schema.events).where(of_them)).mappings()
    }
    for row in found:
        yield {
            "event": events[row["event_id"]],
            "delivery": dict(row),
            "attempts": attempts[row["id"]],
        }


def write_audit(connection: Connection, entry: AuditEntry) -> None:
    """Note who did what."""
    connection.execute(
        insert(schema.audit),
        {
            "at": entry.at,
            "who": entry.who,
            "action": entry.action,
            "selection": json.dumps(entry.selection, ensure_ascii=False),
            "count": entry.count,
        },
    )


def read_audit(connection: Connection, *, limit: int | None = None) -> list[AuditEntry]:
    """Return who did what, the newest first."""
    table = schema.audit
    rows = connection.execute(select(table).order_by(table.c.id.desc()).limit(limit))
    return [
        AuditEntry(at, who, action, json.loads(selection), number)
        for _, at, who, action, selection, number in rows
    ]


def count(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> int:
    """Return how many deliveries meet the conditions."""
    return connection.execute(select(func.count()).select_from(_d).where(*conditions)).scalar_one()
