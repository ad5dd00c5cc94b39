"""What a worker does to deliveries: claim, begin, record, release, renew.

A claim is a lease with a fencing token, which grows whenever the lease changes hands. Whoever comes back with an older
token may add its attempt to the history and changes nothing else (Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Text, bindparam, case, func, literal, or_, select, update

from resonant.delivery.retry import Decision, GiveUp, Park, Retry
from resonant.events import Attempt, Event, Lease, LeaseKey
from resonant.store import schema
from resonant.store.attempts import Said, add_attempts, attempt_row, said_before, storable
from resonant.store.causes import Cause, point_at_causes
from resonant.store.counters import Tally
from resonant.store.sql import insert_into, is_any_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import CTE, Connection, Insert, Row, Update

_d = schema.deliveries
# An arbitrary number, the same in every process.
_FIRST_CLAIM_LOCK = 0x5E50_4A18
_bytes = func.length(schema.events.c.body).label("bytes")


@dataclass(frozen=True, slots=True)
class Outcome:
    """An attempt that ended, and the decision taken on it.

    Attributes:
        lease: as it was claimed, with ``attempts`` counted on for those made since.
        decision: None for a delivery.
        gone: whether the endpoint said that it will never be there again (410).

    Raises:
        ValueError: the attempt's number does not follow the lease's attempts.
    """

    lease: Lease
    attempt: Attempt
    decision: Decision | None
    gone: bool = False

    def __post_init__(self) -> None:
        if self.attempt.number != self.lease.attempts + 1:
            raise ValueError(
                f"attempt {self.attempt.number} cannot follow the {self.lease.attempts} of its lease"
            )


class Due(NamedTuple):
    """When the next delivery of an endpoint is due, or its lease ends: seconds since the epoch."""

    endpoint: str
    at: float


def due(connection: Connection, endpoint: str | None = None) -> list[Due]:
    """Return, for each endpoint with unfinished deliveries, when the earliest of them may be taken."""
    names = (
        select(literal(endpoint, Text).label("name")).cte() if endpoint is not None else _unfinished_names()
    )
    earliest = (
        select(func.min(_d.c.available_at))
        .where(_d.c.endpoint == names.c.name, _d.c.available_at.is_not(None))
        .scalar_subquery()
    )
    query = select(names.c.name, earliest).where(names.c.name.is_not(None))
    return [Due(name, at) for name, at in connection.execute(query) if at is not None]


def _unfinished_names() -> CTE:
    """Find the endpoints with unfinished deliveries by one index lookup each, however many rows they have."""
    unfinished = _d.c.available_at.is_not(None)
    names = select(func.min(_d.c.endpoint).label("name")).where(unfinished).cte("names", recursive=True)
    following = select(func.min(_d.c.endpoint)).where(unfinished, _d.c.endpoint > names.c.name)
    following = following.correlate(names)
    return names.union_all(select(following.scalar_subquery()).where(names.c.name.is_not(None)))


def gone_at(connection: Connection, endpoint: str) -> float | None:
    """Return since when an endpoint has answered 410, seconds since the epoch; None where it has not."""
    table = schema.endpoints
    return connection.execute(select(table.c.gone_at).where(table.c.name == endpoint)).scalar()


def unfinished(connection: Connection, endpoint: str | None = None) -> int:
    """Return how many deliveries are neither delivered nor given up."""
    query = select(func.count()).select_from(_d).where(_d.c.available_at.is_not(None))
    if endpoint is not None:
        query = query.where(_d.c.endpoint == endpoint)
    return connection.execute(query).scalar_one()


def latest_lease_end(connection: Connection, endpoint: str | None = None) -> float | None:
    """Return when the last of the live leases ends, seconds since the epoch; None where nothing is leased."""
    query = select(func.max(_d.c.available_at)).where(_d.c.lease_owner.is_not(None))
    if endpoint is not None:
        query = query.where(_d.c.endpoint == endpoint)
    return connection.execute(query).scalar()


def claim(
    connection: Connection,
    endpoint: str,
    *,
    owner: str,
    limit: int,
    most_bytes: int | None = None,
    now: float,
    lease_seconds: float,
) -> list[Lease]:
    """Lease up to ``limit`` due deliveries of one endpoint, the longest due first.

    Of more than one the bodies have ``most_bytes`` together at most, where that is given.

    On PostgreSQL, rows that another worker is claiming are passed over (``FOR UPDATE SKIP LOCKED``); on SQLite the
    transaction has the database to itself.
    """
    picked = (
        select(_d.c.id)
        .where(_d.c.endpoint == endpoint, _d.c.available_at <= now, _d.c.lease_owner.is_(None))
        .order_by(_d.c.available_at)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("picked")
    )
    claimed = connection.execute(
        update(_d)
        .where(_d.c.id.in_(select(picked.c.id)))
        .values(
            lease_owner=owner,
            lease_token=_d.c.lease_token + 1,
            available_at=now + lease_seconds,
            sending=False,
        )
        .returning(_d)
    ).all()
    if most_bytes is not None:
        claimed = _that_fit(connection, claimed, most_bytes, now)
    leases = leases_of(connection, claimed)
    if leases:
        _note_claim(connection, endpoint, now)
    return leases


def _that_fit(
    connection: Connection, claimed: Sequence[Row[Any]], most_bytes: int, now: float
) -> Sequence[Row[Any]]:
    """Return those that may be kept, and hand back the others, before their bodies are read."""
    events = schema.events.c
    of_claimed = is_any_of(events.id, [row.event_id for row in claimed])
    sizes = {row.id: row.bytes for row in connection.execute(select(events.id, _bytes).where(of_claimed))}
    ordered = _longest_due_first(claimed)
    totals = itertools.accumulate(sizes[row.event_id] for row in ordered)
    fitting = max(1, sum(1 for total in totals if total <= most_bytes))
    hand_back(connection, [row.id for row in ordered[fitting:]], now)
    return ordered[:fitting]


def _note_claim(connection: Connection, endpoint: str, now: float) -> None:
    """Note when this endpoint was last claimed from; of several claims at once, one does."""
    values = {"of": endpoint, "at": now}
    if not connection.execute(_noting_claim(), values).rowcount:
        connection.execute(_noting_first_claim(connection.dialect.name), values)


@cache
def _noting_claim() -> Update:
    table = schema.claims
    at = bindparam("at", type_=table.c.last_claim_at.type)
    # Passed over while another claim writes it, which is as recent as this one: no claim waits for another.
    free = select(table.c.endpoint).where(table.c.endpoint == bindparam("of"))
    is_later = or_(table.c.last_claim_at.is_(None), table.c.last_claim_at < at)
    noting = update(table).where(table.c.endpoint.in_(free.with_for_update(skip_locked=True)), is_later)
    return noting.values(last_claim_at=at)


@cache
def _noting_first_claim(dialect: str) -> Insert:
    table = schema.claims
    of, at = bindparam("of", type_=Text()), bindparam("at", type_=table.c.last_claim_at.type)
    is_first = ~select(table.c.endpoint).where(table.c.endpoint == of).exists()
    if dialect == "postgresql":
        # Do not wait for another transaction that inserts the same row.
        is_first &= func.pg_try_advisory_xact_lock(_FIRST_CLAIM_LOCK, func.hashtext(of))
    row = select(of, at).where(is_first)
    return (
        insert_into(dialect, table).from_select(["endpoint", "last_claim_at"], row).on_conflict_do_nothing()
    )


def leases_of(connection: Connection, claimed: Sequence[Row[Any]]) -> list[Lease]:
    """Return the leases of rows just claimed, with their events, the longest due first."""
    events = _read_events(connection, [row.event_id for row in claimed])
    return [_lease(row, events[row.event_id]) for row in _longest_due_first(claimed)]


def _longest_due_first(claimed: Sequence[Row[Any]]) -> list[Row[Any]]:
    return sorted(claimed, key=lambda row: (row.next_attempt_at, row.id))


def begin(connection: Connection, leases: Sequence[Lease], *, now: float) -> set[LeaseKey]:
    """Note that a send is about to start, so that losing the lease from now on is charged as a crash.

    Returns:
        The leases that are still held; whoever holds no more must not send.
    """
    held = _held(connection, leases)
    begun = {"sending": True, "first_attempt_at": func.coalesce(_d.c.first_attempt_at, now)}
    change_all(connection, [key.delivery_id for key in held], begun)
    return held


def record(connection: Connection, outcomes: Sequence[Outcome], *, now: float) -> set[LeaseKey]:
    """Write attempts and the decisions taken on them, together.

    Whoever did not hear that it was written may say it again: it is written once.

    Returns:
        The leases whose outcome stands. The others were lost: their attempts are in the history, marked late, and
        changed nothing else.
    """
    rows = lock(connection, [outcome.lease.delivery_id for outcome in outcomes])
    # What is missing was delivered by another, and purged since.
    there = [outcome for outcome in outcomes if outcome.lease.delivery_id in rows]
    held = {outcome.lease.key for outcome in there if _is_held(rows, outcome.lease)}
    known = said_before(connection, [o.lease.delivery_id for o in there if o.lease.key not in held])
    history: list[dict[str, object]] = []
    kept: list[Outcome] = []
    standing: set[LeaseKey] = set()
    for outcome in there:
        lease, attempt = outcome.lease, outcome.attempt
        row = rows[lease.delivery_id]
        if row.lease_token == lease.token and row.attempts >= attempt.number:
            standing.add(lease.key)
            continue
        if Said.of(lease.delivery_id, attempt) in known:
            continue
        is_held = lease.key in held
        history.append(attempt_row(lease.delivery_id, attempt, late=not is_held))
        if is_held:
            standing.add(lease.key)
            kept.append(outcome)
    add_attempts(connection, history)
    _write_kept(connection, kept, now)
    return standing


def release(connection: Connection, leases: Sequence[Lease], *, now: float) -> None:
    """Hand back what is still held, with no attempt charged: it is due again when it was due before."""
    hand_back(connection, [key.delivery_id for key in _held(connection, leases)], now)


def release_all(connection: Connection, owner: str, *, now: float) -> int:
    """Hand back everything this owner holds, with no attempt charged; return how many there were."""
    held = _held_by(connection, owner)
    hand_back(connection, held, now)
    return len(held)


def renew(
    connection: Connection,
    owner: str,
    *,
    delivery_ids: Collection[int] | None = None,
    now: float,
    lease_seconds: float,
) -> int:
    """Put off the end of this owner's leases of these deliveries, or of all its leases; return how many there are."""
    held = _held_by(connection, owner)
    if delivery_ids is not None:
        known = set(delivery_ids)
        held = [each for each in held if each in known]
    change_all(connection, held, {"available_at": now + lease_seconds})
    return len(held)


def lease_owners(connection: Connection) -> list[str]:
    """Return who holds leases now."""
    return list(
        connection.execute(select(_d.c.lease_owner).where(_d.c.lease_owner.is_not(None)).distinct()).scalars()
    )


def lock(connection: Connection, delivery_ids: Iterable[int]) -> dict[int, Any]:
    """Lock these deliveries in the order of their ids, so that two workers never wait for each other in a ring.

    Returns:
        ``id``, ``lease_token``, ``lease_owner`` and ``attempts`` of those there are, by id.
    """
    query = select(_d.c.id, _d.c.lease_token, _d.c.lease_owner, _d.c.attempts).order_by(_d.c.id)
    # Not FOR UPDATE: the history of a delivery may be added to while it is locked.
    query = query.where(is_any_of(_d.c.id, list(delivery_ids))).with_for_update(key_share=True)
    return {row.id: row for row in connection.execute(query).all()}


def hand_back(connection: Connection, delivery_ids: Collection[int], now: float) -> None:
    """End the leases of locked deliveries: they are due again when they were due before."""
    changes = {
        "lease_owner": None,
        "sending": False,
        # Begun, and not sent after all.
        "first_attempt_at": case((_d.c.attempts > 0, _d.c.first_attempt_at)),
        "available_at": func.coalesce(_d.c.next_attempt_at, now),
    }
    change_all(connection, delivery_ids, changes)


def change_all(connection: Connection, delivery_ids: Collection[int], changes: dict[str, Any]) -> None:
    """Apply the same changes to deliveries already locked by this transaction."""
    if delivery_ids:
        connection.execute(update(_d).where(is_any_of(_d.c.id, delivery_ids)).values(changes))


def change_each(connection: Connection, changes: list[dict[str, object]]) -> None:
    """Apply to each delivery its own changes; ``key`` is its id, and this transaction has locked it."""
    by_shape: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for change in changes:
        by_shape.setdefault(tuple(change), []).append(change)
    for shape, rows in by_shape.items():
        connection.execute(_change(shape), rows)


@cache
def _change(shape: tuple[str, ...]) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in shape if name != "key"}
    return update(_d).where(_d.c.id == bindparam("key")).values(values)


def _write_kept(connection: Connection, kept: list[Outcome], now: float) -> None:
    _deliver(connection, [outcome for outcome in kept if outcome.decision is None], now)
    failed = [outcome for outcome in kept if outcome.decision is not None]
    changes = [_failure_changes(outcome, now) for outcome in failed]
    point_at_causes(connection, changes, _causes(failed))
    change_each(connection, changes)
    tally = Tally(now)
    for outcome in kept:
        _count(tally, outcome, now)
    tally.write(connection)
    # After the rollups, as when events are accepted: see the order of locks in schema.py.
    if gone := sorted({outcome.lease.endpoint for outcome in kept if outcome.gone}):
        insert = insert_into(connection.dialect.name, schema.endpoints)
        flagging = insert.on_conflict_do_update(
            index_elements=["name"],
            set_={"gone_at": insert.excluded.gone_at},
            where=schema.endpoints.c.gone_at.is_(None),
        )
        connection.execute(flagging, [{"name": name, "gone_at": now} for name in gone])


def _deliver(connection: Connection, delivered: Iterable[Outcome], now: float) -> None:
    """Note deliveries: all of one status code in one statement, as most of them are alike."""
    by_status_code: dict[int | None, list[int]] = {}
    for outcome in delivered:
        by_status_code.setdefault(outcome.attempt.status_code, []).append(outcome.lease.delivery_id)
    for status_code, delivery_ids in by_status_code.items():
        changes = {
            # The row has the attempts of its lease: it is still held, with the same token.
            "attempts": _d.c.attempts + 1,
            "round_attempts": _d.c.round_attempts + 1,
            "sending": False,
            "status_code": status_code,
            "status": "delivered",
            "finished_at": now,
            "next_attempt_at": None,
            "available_at": None,
            "lease_owner": None,
        }
        change_all(connection, delivery_ids, changes)


def _failure_changes(outcome: Outcome, now: float) -> dict[str, object]:
    lease, attempt, decision = outcome.lease, outcome.attempt, outcome.decision
    changes: dict[str, object] = {
        "key": lease.delivery_id,
        "attempts": attempt.number,
        "round_attempts": lease.round_attempts + 1,
        "sending": False,
        "status_code": attempt.status_code,
        "category": attempt.category,
        "code": attempt.code,
        "error_type": storable(attempt.error_type),
        "error": storable(attempt.error),
    }
    match decision:
        case Retry():
            return changes | {
                "status": "retrying",
                "last_delay": decision.delay,
                "next_attempt_at": decision.next_attempt_at,
            }
        case Park():
            return changes | {
                "status": "retrying",
                "last_delay": decision.delay,
                "next_attempt_at": decision.next_attempt_at,
                "available_at": decision.next_attempt_at,
                "lease_owner": None,
            }
        case GiveUp():
            return changes | {
                "status": "dead_letter",
                "reason": decision.reason,
                "finished_at": now,
                "next_attempt_at": None,
                "available_at": None,
                "lease_owner": None,
            }
        case None:
            raise ValueError("a delivery is no failure")


def _causes(outcomes: Iterable[Outcome]) -> dict[object, Cause]:
    """Return the cause of each delivery that was given up."""
    causes: dict[object, Cause] = {}
    for outcome in outcomes:
        if isinstance(outcome.decision, GiveUp):
            lease, attempt = outcome.lease, outcome.attempt
            error = (attempt.category, attempt.code, storable(attempt.error_type), storable(attempt.error))
            where = (lease.endpoint, lease.event.type)
            causes[lease.delivery_id] = Cause.of(*where, outcome.decision.reason, *error)
    return causes


def _count(tally: Tally, outcome: Outcome, now: float) -> None:
    attempt, decision = outcome.attempt, outcome.decision
    category, code = attempt.category, attempt.code
    where = (outcome.lease.endpoint, outcome.lease.event.type)
    age = now - outcome.lease.accepted_at
    tally.add("attempt", *where, attempt.result, category, code, seconds=attempt.duration)
    match decision:
        case None:
            tally.add("delivery", *where, "delivered", seconds=age)
        case GiveUp():
            tally.add("delivery", *where, "dead_letter", category, code, seconds=age)
        case Retry() | Park():
            result = "park" if isinstance(decision, Park) else "retry"
            tally.add("retry_delay", *where, result, category, code, seconds=decision.delay)


def _held(connection: Connection, leases: Sequence[Lease]) -> set[LeaseKey]:
    """Lock the deliveries, and return those of these leases that are not over.

    At most one of a delivery, though several may be asked for: a run may claim again what it lost.
    """
    rows = lock(connection, [lease.delivery_id for lease in leases])
    return {lease.key for lease in leases if _is_held(rows, lease)}


def _is_held(rows: Mapping[int, Any], lease: Lease) -> bool:
    """Tell by the rows that ``lock`` returned whether a lease is not over."""
    row = rows.get(lease.delivery_id)
    return row is not None and row.lease_owner is not None and bool(row.lease_token == lease.token)


def _held_by(connection: Connection, owner: str) -> list[int]:
    """Lock everything this owner holds, in the order of ``lock``."""
    query = select(_d.c.id).where(_d.c.lease_owner == owner).order_by(_d.c.id).with_for_update(key_share=True)
    return list(connection.execute(query).scalars())


def _read_events(connection: Connection, event_ids: list[str]) -> dict[str, Event]:
    table = schema.events
    events = {}
    for row in connection.execute(select(table).where(is_any_of(table.c.id, event_ids))):
        events[row.id] = Event.from_stored(
            row.id, row.type, row.source, bytes(row.body), row.time, row.subject
        )
    return events


def _lease(row: Row[tuple[object, ...]], event: Event) -> Lease:
    return Lease(
        delivery_id=row.id,
        token=row.lease_token,
        owner=row.lease_owner,
        event=event,
        endpoint=row.endpoint,
        attempts=row.attempts,
        round=row.round,
        round_attempts=row.round_attempts,
        round_started_at=row.round_started_at,
        accepted_at=row.accepted_at,
        last_delay=row.last_delay,
        policy=row.policy,
        max_attempts=row.max_attempts,
    )
