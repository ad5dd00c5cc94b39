"""A worker's operations on its leases: claim, begin, release, renew. `outcomes` records the results.

A lease has a fencing token, which grows whenever the delivery is claimed or rescued. A worker with an older token may add
its attempt to the history, but cannot change anything else (Kleppmann, "How to do distributed locking", 2016).
"""

import itertools
import math
import random
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Connection,
    Double,
    Insert,
    Integer,
    Row,
    Select,
    Text,
    Update,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from resonant.events import Event, Lease, LeaseKey
from resonant.store import schema
from resonant.store.engine.sql import given_rows, insert_into, is_any_of, is_any_of_given, update_these
from resonant.store.engine.wakeup import announce
from resonant.store.queue.due_types import due_types
from resonant.store.queue.events import read_events
from resonant.store.queue.impossible_rows import sound
from resonant.store.queue.locked_rows import change_all, held_by, held_in, still_held
from resonant.store.shared.gates import Gate, Gates, read_gates

_d = schema.deliveries
# An arbitrary number, the same in every process.
_FIRST_CLAIM_LOCK = 0x5E50_4A18
_bytes = func.length(schema.events.c.body).label("bytes")
# Events accepted within this time are new.
NEW_SECONDS = 300.0
# If the event of an endpoint's earliest due delivery is older, it has a backlog, and half of a claim is for the latest new
# events.
BACKLOG_SECONDS = 10.0
# The most types that a claim takes turns with; the next claim continues after them.
_MOST_TYPES = 50
# Events of the backlog that are retried lie between the new ones. The search for new ones considers this many of the latest due,
# besides four times the wanted number.
_CANDIDATES = 100


class Turns(NamedTuple):
    """How the event types of an endpoint take turns.

    Attributes:
        after: the type that had the last turn.
        leave_out: the types that are not claimed.
    """

    after: str
    leave_out: Collection[str]


class Due(NamedTuple):
    """When an endpoint's next delivery is due, or its lease ends.

    Attributes:
        endpoint: its name.
        at: seconds since the epoch.
        held: after a look, the types of the due deliveries, if the gate's row holds all of these types; otherwise empty.
    """

    endpoint: str
    at: float
    held: frozenset[str] = frozenset()


def due(connection: Connection, endpoint: str | None = None) -> list[Due]:
    """Return when the earliest unfinished delivery of each endpoint may be claimed."""
    parameters = {} if endpoint is None else {"of": endpoint}
    found = connection.execute(_earliest(is_of_one=endpoint is not None), parameters)
    return [Due(name, at) for name, at in found if at is not None]


@cache
def _earliest(*, is_of_one: bool) -> Select[str, float]:
    names = select(bindparam("of", type_=Text()).label("name")).cte() if is_of_one else unfinished_names()
    earliest = (
        select(func.min(_d.c.available_at))
        .where(_d.c.endpoint == names.c.name, _d.c.available_at.is_not(None))
        .scalar_subquery()
    )
    return select(names.c.name, earliest).where(names.c.name.is_not(None))


def look(
    connection: Connection,
    endpoint: str | None = None,
    *,
    bounds: Mapping[str, float] | None = None,
    until: float = math.inf,
    now: float,
) -> tuple[list[Due], Gates]:
    """Return the result of ``due`` with the held types, and the stored gates.

    Args:
        bounds: on PostgreSQL, only look at these endpoints, and only for due times from these on.
        until: with bounds, omit later due times.
    """
    if bounds is None or connection.dialect.name == "sqlite":
        found = due(connection, endpoint)
    else:
        given = {"all_endpoint": list(bounds), "all_available_at": list(bounds.values()), "until": until}
        rows = connection.execute(_earliest_within(), given)
        found = [Due(name, at) for name, at in rows if at is not None]
    gates = read_gates(connection)
    return [_with_held(connection, each, gates[each.endpoint], now) for each in found], gates


def _with_held(connection: Connection, due: Due, gate: Gate, now: float) -> Due:
    failing = gate.failing_at(now).keys()
    if due.at > now or not failing or gate.state not in ("normal", "paced"):
        return due
    types = due_types(connection, due.endpoint, most=len(failing) + 1, now=now)
    return due._replace(held=frozenset(types)) if failing >= set(types) else due


@cache
def _earliest_within() -> Select[str, float]:
    given = given_rows(_d, ("endpoint", "available_at")).c
    until: BindParameter[float] = bindparam("until", type_=Double())
    earliest = select(func.min(_d.c.available_at)).where(
        _d.c.endpoint == given.endpoint, _d.c.available_at.between(given.available_at, until)
    )
    return select(given.endpoint, earliest.scalar_subquery())


def unfinished_names() -> CTE:
    """Find the endpoints with unfinished deliveries, with one index lookup per endpoint."""
    unfinished = _d.c.available_at.is_not(None)
    names = select(func.min(_d.c.endpoint).label("name")).where(unfinished).cte("names", recursive=True)
    following = select(func.min(_d.c.endpoint)).where(unfinished, _d.c.endpoint > names.c.name)
    following = following.correlate(names)
    return names.union_all(select(following.scalar_subquery()).where(names.c.name.is_not(None)))


def unfinished(connection: Connection, endpoint: str | None = None) -> int:
    """Return the number of deliveries that are neither delivered nor given up."""
    query = select(func.count()).select_from(_d).where(_d.c.available_at.is_not(None))
    if endpoint is not None:
        query = query.where(_d.c.endpoint == endpoint)
    return connection.execute(query).scalar_one()


def latest_lease_end(connection: Connection, endpoint: str | None = None) -> float | None:
    """Return when the last lease ends, in seconds since the epoch; None if nothing is leased."""
    query = select(func.max(_d.c.available_at)).where(_d.c.lease_owner.is_not(None))
    if endpoint is not None:
        query = query.where(_d.c.endpoint == endpoint)
    return connection.execute(query).scalar()


def claim(
    connection: Connection,
    limits: Mapping[str, int],
    *,
    owner: str,
    new: Mapping[str, float] | None = None,
    most_bytes: int | None = None,
    bounds: Mapping[str, float] | None = None,
    begin_up_to: int = 0,
    in_turn: Mapping[str, Turns] | None = None,
    note: Collection[str] = (),
    now: float,
    lease_seconds: float,
) -> dict[str, list[Lease]]:
    """Lease due deliveries, earliest due first.

    New events must not wait for a backlog. So if the event of the earliest due delivery is older than ``BACKLOG_SECONDS``, up to
    ``new`` of the deliveries are the latest due ones of events accepted in the last ``NEW_SECONDS``, in alternation with the rest.

    On PostgreSQL, rows that another worker is claiming are skipped (``FOR UPDATE SKIP LOCKED``). On SQLite, there is only
    one writer.

    Args:
        limits: the number of deliveries for each endpoint.
        new: how many of them are for new events, for endpoints with a backlog. A fraction is rounded at random: if claims of one
            rounded up and down in turn, one of two event types would always have the new events, and the other one the old.
        most_bytes: limits the total size of their bodies; a single delivery may be larger.
        bounds: the earliest due times to search for, for some endpoints.
        begin_up_to: if an endpoint has at most this many, also record that their sends are about to start, as ``begin`` does.
        in_turn: the endpoints whose event types take turns.
        note: the endpoints whose claims ``note_claims`` records in the same transaction.
    """
    found: list[list[Row[Any]]] = []
    rng = random.Random(now)
    for endpoint, limit in limits.items():
        lease = {"of": endpoint, "due": now, "by": owner, "until": now + lease_seconds}
        since, newest = (bounds or {}).get(endpoint), (new or {}).get(endpoint, 0.0)
        if in_turn and endpoint in in_turn:
            found.append(
                _claim_by_type(
                    connection, lease, limit, turns=in_turn[endpoint], new=newest, since=since, rng=rng
                )
            )
        else:
            found.append(
                _claim_some(
                    connection,
                    lease,
                    limit,
                    new=_rounded(newest, rng),
                    since=since,
                    begin_up_to=begin_up_to,
                )
            )
    rows = _in_turn(*found)
    if most_bytes is not None and len(rows) > 1:
        rows = _that_fit(connection, rows, most_bytes, now)
    claimed: dict[str, list[Lease]] = {endpoint: [] for endpoint in limits}
    for each in leases_of(connection, rows, begun_at=now):
        claimed[each.endpoint].append(each)
    note_claims(connection, [endpoint for endpoint in note if claimed[endpoint]], now)
    return claimed


def _claim_some(
    connection: Connection,
    lease: dict[str, Any],
    limit: int,
    *,
    new: int,
    since: float | None,
    begin_up_to: int = 0,
) -> list[Row[Any]]:
    """Lease due deliveries of one endpoint, or of one ``type`` if the lease has that; see ``claim``."""
    now, is_of_type = lease["due"], "type" in lease
    search = lease if since is None else lease | {"from": since}
    first: Sequence[Row[Any]] = ()
    if new:
        of_new = {"most": new, "since": now - NEW_SECONDS}
        earliest_due = connection.execute(
            _accepted_at_of_earliest_due(since is not None, is_of_type), search
        ).scalar()
        if earliest_due is not None and earliest_due <= now - BACKLOG_SECONDS:
            first = connection.execute(_claiming_new(is_of_type), lease | of_new).all()
    wanted = search | {"most": limit - len(first)} | ({"few": begin_up_to} if begin_up_to else {})
    rest = connection.execute(_claiming(since is not None, begin_up_to > 0, is_of_type), wanted).all()
    return _in_turn(*(_longest_due_first(sound(connection, rows, now)) for rows in (first, rest)))


def _claim_by_type(
    connection: Connection,
    lease: dict[str, Any],
    limit: int,
    *,
    turns: Turns,
    new: float,
    since: float | None,
    rng: random.Random,
) -> list[Row[Any]]:
    """Lease due deliveries of one endpoint, in equal parts of each type; a type that has fewer leaves its part to others."""
    most = min(limit, _MOST_TYPES) + len(turns.leave_out)
    due = due_types(connection, lease["of"], after=turns.after, most=most, now=lease["due"])
    types = [name for name in due if name not in turns.leave_out]
    found: dict[str, list[Row[Any]]] = {name: [] for name in types}
    left = limit
    while left > 0 and types:
        have_more, each_part = [], math.ceil(left / len(types))
        for name in types:
            part = min(each_part, left)
            of_new = _rounded(part * new / limit, rng)
            rows = _claim_some(connection, lease | {"type": name}, part, since=since, new=of_new)
            found[name] += rows
            left -= len(rows)
            if len(rows) == part:
                have_more.append(name)
            if left <= 0:
                break
        types = have_more
    rows = _in_turn(*found.values())
    # In no fixed order: a limit that rejects every second request would otherwise reject the same type each time.
    rng.shuffle(rows)
    return rows


def _rounded(number: float, rng: random.Random) -> int:
    return int(number + rng.random())


def _in_turn(*groups: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Return the first row of each group, then the second of each, and so on."""
    return [row for rows in itertools.zip_longest(*groups) for row in rows if row is not None]


def _is_due() -> list[ColumnElement[bool]]:
    return [_d.c.available_at <= bindparam("due"), _d.c.lease_owner.is_(None)]


def _due_of_endpoint(is_bounded: bool = False, is_of_type: bool = False) -> list[ColumnElement[bool]]:
    found = [_d.c.endpoint == bindparam("of"), *_is_due()]
    if is_of_type:
        # SQLite would otherwise choose the other index, and walk over the deliveries of the other types.
        found = [_d.c.available_at.is_not(None), _d.c.event_type == bindparam("type"), *found]
    return [*found, _d.c.available_at >= bindparam("from")] if is_bounded else found


@cache
def _accepted_at_of_earliest_due(is_bounded: bool, is_of_type: bool) -> Select[float]:
    is_due = _due_of_endpoint(is_bounded, is_of_type)
    return select(_d.c.accepted_at).where(*is_due).order_by(_d.c.available_at).limit(1)


@cache
def _claiming(is_bounded: bool, may_begin: bool, is_of_type: bool) -> ReturningUpdate[Any]:
    picked = (
        select(_d.c.id)
        .where(*_due_of_endpoint(is_bounded, is_of_type))
        .order_by(_d.c.available_at)
        .limit(bindparam("most", type_=Integer()))
        .with_for_update(skip_locked=True, key_share=True)
        .cte("picked")
    )
    claiming = _leasing(_d.c.id.in_(select(picked.c.id)))
    if not may_begin:
        return claiming
    number = select(func.count()).select_from(picked).scalar_subquery()
    are_few = number <= bindparam("few", type_=Integer())
    begun_at = func.coalesce(_d.c.first_attempt_at, bindparam("due", type_=Double()))
    first_attempt_at = case((are_few, begun_at), else_=_d.c.first_attempt_at)
    return claiming.values(sending=are_few, first_attempt_at=first_attempt_at)


@cache
def _claiming_new(is_of_type: bool) -> ReturningUpdate[Any]:
    since: BindParameter[float] = bindparam("since", type_=Double())
    most = bindparam("most", type_=Integer())
    # An event is not due before it is accepted, so this range of the index has all new ones.
    candidates = select(_d.c.id).where(*_due_of_endpoint(is_of_type=is_of_type), _d.c.available_at > since)
    candidates = candidates.order_by(_d.c.available_at.desc()).limit(4 * most + _CANDIDATES)
    # The candidates are a subquery, and the conditions are repeated, as in `probes.claim_probe`.
    picked = (
        select(_d.c.id)
        .where(_d.c.id.in_(candidates.subquery().select()), *_is_due(), _d.c.accepted_at > since)
        .order_by(_d.c.available_at.desc())
        .limit(most)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("picked")
    )
    return _leasing(_d.c.id.in_(select(picked.c.id)))


def lease_rows(
    connection: Connection, picked: ColumnElement[bool], owner: str, until: float
) -> Sequence[Row[Any]]:
    """Lease free deliveries that this transaction has locked; return their rows."""
    return connection.execute(_leasing(picked), {"by": owner, "until": until}).all()


def _leasing(picked: ColumnElement[bool]) -> ReturningUpdate[Any]:
    """Return the statement that leases free deliveries to ``by`` until ``until``, and returns their rows."""
    values = {
        "lease_owner": bindparam("by"),
        "lease_token": _d.c.lease_token + 1,
        "available_at": bindparam("until"),
        "sending": False,
    }
    return update(_d).where(picked).values(values).returning(_d)


def _that_fit(connection: Connection, claimed: list[Row[Any]], most_bytes: int, now: float) -> list[Row[Any]]:
    """Return the first deliveries within the size limit; release the rest before their bodies are read."""
    events = schema.events.c
    query = select(events.key, _bytes).where(is_any_of(events.key, [row.event_key for row in claimed]))
    sizes = {row.key: row.bytes for row in connection.execute(query)}
    totals = itertools.accumulate(sizes[row.event_key] for row in claimed)
    fitting = max(1, sum(1 for total in totals if total <= most_bytes))
    hand_back(connection, [row.id for row in claimed[fitting:]], now)
    return claimed[:fitting]


def note_claims(connection: Connection, endpoints: Collection[str], now: float) -> None:
    """Record the time of the last claim from these endpoints; only one of several concurrent transactions records it."""
    if not endpoints:
        return
    noted = set(connection.execute(_noting_claims(), {"names": list(endpoints), "at": now}).scalars())
    for endpoint in sorted(endpoints):
        if endpoint not in noted:
            connection.execute(_noting_first_claim(connection.dialect.name), {"of": endpoint, "at": now})


@cache
def _noting_claims() -> ReturningUpdate[str]:
    table = schema.claims
    at = bindparam("at", type_=table.c.last_claim_at.type)
    # Skipped while another claim writes the row: its time is as recent, and claims do not wait for each other.
    free = select(table.c.endpoint).where(is_any_of_given(table.c.endpoint, "names"))
    is_later = or_(table.c.last_claim_at.is_(None), table.c.last_claim_at < at)
    noting = update(table).where(table.c.endpoint.in_(free.with_for_update(skip_locked=True)), is_later)
    return noting.values(last_claim_at=at).returning(table.c.endpoint)


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


def leases_of(
    connection: Connection, claimed: Sequence[Row[Any]], *, begun_at: float | None = None
) -> list[Lease]:
    """Return the leases of claimed rows, with their events; ``begun_at`` is the time of the claim."""
    events = read_events(connection, [row.event_key for row in claimed])
    return [_lease(row, events[row.event_key], begun_at if row.sending else None) for row in claimed]


def _longest_due_first(claimed: Sequence[Row[Any]]) -> list[Row[Any]]:
    return sorted(claimed, key=lambda row: (row.next_attempt_at, row.id))


def begin(
    connection: Connection, leases: Sequence[Lease], *, now: float, rows: Mapping[int, Any] | None = None
) -> set[LeaseKey]:
    """Record that a send is about to start, so that a lease lost from now on is charged as a crash.

    Args:
        connection: in a write transaction.
        leases: of the sends.
        rows: the result of ``lock``, if this transaction has locked the deliveries.

    Returns:
        The leases that are still held. Do not send the deliveries of lost leases.
    """
    held = still_held(connection, leases) if rows is None else held_in(rows, leases)
    if held:
        update_these(connection, _beginning(), [key.delivery_id for key in held], {"at": now})
    return held


@cache
def _beginning() -> Update:
    first_attempt_at = func.coalesce(_d.c.first_attempt_at, bindparam("at", type_=Double()))
    begun = update(_d).values(sending=True, first_attempt_at=first_attempt_at)
    return begun.where(is_any_of_given(_d.c.id, "ids"))


def release(connection: Connection, leases: Sequence[Lease], *, now: float) -> None:
    """Release the leases that are still held, without charging an attempt. Due times do not change."""
    hand_back(connection, [key.delivery_id for key in still_held(connection, leases)], now)


def release_all(
    connection: Connection,
    owner: str,
    *,
    besides: Collection[LeaseKey] = (),
    skip_locked: bool = False,
    now: float,
) -> int:
    """Release the leases of an owner, except these, without charging an attempt; return their number."""
    rows = connection.execute(select(_d.c.id, _d.c.lease_token).where(_d.c.lease_owner == owner))
    others = [id_ for id_, token in rows if (id_, token) not in besides]
    held = held_by(connection, owner, is_any_of(_d.c.id, others), skip_locked=skip_locked)
    hand_back(connection, held, now)
    if held:
        announce(connection)
    return len(held)


def renew(
    connection: Connection,
    owner: str,
    *,
    delivery_ids: Collection[int] | None = None,
    skip_locked: bool = False,
    now: float,
    lease_seconds: float,
) -> list[int]:
    """Renew an owner's leases on these deliveries, or all of its leases; return the ids of their deliveries."""
    which = [] if delivery_ids is None else [is_any_of(_d.c.id, delivery_ids)]
    held = held_by(connection, owner, *which, skip_locked=skip_locked)
    change_all(connection, held, {"available_at": now + lease_seconds})
    return held


def lease_owners(connection: Connection) -> list[str]:
    """Return the owners of all leases."""
    return list(
        connection.execute(select(_d.c.lease_owner).where(_d.c.lease_owner.is_not(None)).distinct()).scalars()
    )


def hand_back(connection: Connection, delivery_ids: Collection[int], now: float) -> None:
    """End the leases of locked deliveries. Due times do not change."""
    if not delivery_ids:
        return
    changes = {
        "lease_owner": None,
        "sending": False,
        # Clear it if the first send was begun but not made.
        "first_attempt_at": case((_d.c.attempts > 0, _d.c.first_attempt_at)),
        "available_at": func.coalesce(_d.c.next_attempt_at, now),
    }
    change_all(connection, delivery_ids, changes)


def _lease(row: Row[tuple[object, ...]], event: Event, begun_at: float | None) -> Lease:
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
        backoff_until=row.backoff_until,
        crashes=row.crashes,
        begun_at=begun_at,
    )
