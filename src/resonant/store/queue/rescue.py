"""Rescue of deliveries from lost workers, whose leases expired or who have ended, and from producers with wrong clocks."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, and_, func, select, update

from resonant.events import Attempt, Clock, EventKey
from resonant.store import schema
from resonant.store.counts.counters import Tally, count_retries
from resonant.store.engine.clock import SECONDS_BETWEEN_COMPARISONS
from resonant.store.engine.sql import is_any_of
from resonant.store.engine.wakeup import announce
from resonant.store.queue.attempts import add_attempts, attempt_row, last_failure, without_polls
from resonant.store.queue.causes import Cause, point_at_causes
from resonant.store.queue.impossible_rows import sound
from resonant.store.queue.leases import due, hand_back
from resonant.store.queue.locked_rows import change_all, change_each
from resonant.store.queue.own_events import NewDeadLetter, report_dead_letters

LOST_LEASES_BEFORE_GIVING_UP = 5
# Rescues are about a second apart. A busy machine may delay them by a few seconds.
_LEAST_GAP_SECONDS = 5.0
# The share of the time that complete searches may take, also those of dispatch/claim/due_bounds.py.
SEARCH_SHARE = 0.05
# The longest wait for a complete search, and how much before the last search the others begin.
_LONGEST_WAIT_SECONDS, _MARGIN_SECONDS = 10.0, 5.0
_d = schema.deliveries


class ExpiryWatch:
    """Decides when the owners of expired leases are lost.

    While this process could not write, because of a lock or an outage, others may not have been able to renew their leases
    either. It cannot know whether that happened before it started. So it first watches for half a lease, in which they have time
    to do so.

    Args:
        lease_seconds: the duration of a lease. Live workers renew theirs three times in it.
        steady: a clock that is never set, in seconds.
    """

    def __init__(self, lease_seconds: float, steady: Clock) -> None:
        self._longest_gap = max(_LEAST_GAP_SECONDS, lease_seconds / 3)
        self._grace = lease_seconds / 2
        self._steady = steady
        self._last = (-math.inf, -math.inf)
        self._watches_since = math.inf
        self._since = self._complete_again_at = -math.inf

    def may_rescue(self, now: float) -> bool:
        """Return whether to rescue expired leases now. Call it in each rescue's transaction, after the wait for a lock."""
        # Either clock shows a gap: the steady one may stop while the machine sleeps.
        last, self._last = self._last, (now, self._steady())
        if any(abs(at - before) > self._longest_gap for at, before in zip(self._last, last, strict=True)):
            self._watches_since = self._last[1]
        return self.seconds_left <= 0

    def restart(self) -> None:
        """Watch for half a lease again, because this process could not write."""
        self._last = (-math.inf, -math.inf)

    @property
    def seconds_left(self) -> float:
        """For how long this process still watches, after the last call of ``may_rescue``."""
        return self._watches_since + self._grace - self._last[1]

    def since(self, now: float) -> float:
        """Return from when on to search for expired leases: not from the beginning shortly after a slow complete search."""
        return self._since if self._since < now < self._complete_again_at else -math.inf

    def note_search(self, now: float, since: float, seconds: float) -> None:
        """Note that all leases that expired between ``since`` and ``now`` were searched for, in so many seconds."""
        if since == -math.inf:
            self._complete_again_at = now + min(seconds / SEARCH_SHARE, _LONGEST_WAIT_SECONDS)
        self._since = now - _MARGIN_SECONDS


def rescue(
    connection: Connection,
    *,
    now: float,
    endpoint: str | None = None,
    owners: Iterable[str] | None = None,
    since: float = -math.inf,
    limit: int = 500,
) -> int:
    """End leases that expired from ``since`` on, or, with ``owners``, the leases of processes known to have ended.

    If a send had begun, the crash is charged as an attempt with the result ``lost``; the fifth in a round makes a dead
    letter with the reason ``crashed``. Otherwise nothing is charged.

    Returns:
        The number of rescued leases; call again while it equals ``limit``.
    """
    lost: list[ColumnElement[bool]] = [_d.c.lease_owner.is_not(None)]
    lost.append(_d.c.available_at <= now if owners is None else is_any_of(_d.c.lease_owner, list(owners)))
    if since > -math.inf:
        lost.append(_d.c.available_at >= since)
    if endpoint is not None:
        lost.append(_d.c.endpoint == endpoint)
    rows = connection.execute(
        select(_d)
        .where(*lost)
        .order_by(schema.id_without_index)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    # A new token, so that later outcomes of the lost worker count as late.
    change_all(connection, [row.id for row in rows], {"lease_token": _d.c.lease_token + 1})
    found = sound(connection, rows, now)
    hand_back(connection, [row.id for row in found if not row.sending], now)
    if crashed := [row for row in found if row.sending]:
        _charge_crashes(connection, crashed, now)
    if rows:
        announce(connection)
    return len(rows)


def wait_for_lock(connection: Connection) -> None:
    """Wait while another transaction, such as ``CREATE INDEX``, locks the table, so that no lease can be renewed."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {_d.name} IN ROW EXCLUSIVE MODE")


def try_to_write(connection: Connection, *, now: float) -> None:
    """Write to an expired lease, which stays expired. This fails while its owner cannot renew it, such as on a full disk."""
    expired = select(_d.c.id).where(_d.c.lease_owner.is_not(None), _d.c.available_at <= now)
    expired = expired.order_by(schema.id_without_index).limit(1)
    ids = connection.execute(expired.with_for_update(skip_locked=True, key_share=True)).scalars().all()
    # Another value, since SQLite writes no row that stays the same.
    change_all(connection, ids, {"available_at": _d.c.available_at - 0.001})


def make_new_due(connection: Connection, *, now: float, endpoint: str | None = None, limit: int = 500) -> int:
    """Make deliveries due now that were never tried and have a later due time.

    The store's clock was set back meanwhile, or a producer gave a time that was ahead. Only endpoints without due deliveries are
    searched, since due deliveries come first.

    Returns:
        The number of deliveries made due.
    """
    idle = [each.endpoint for each in due(connection, endpoint) if each.at > now]
    if not idle:
        return 0
    query = select(_d.c.id).where(
        *(_d.c.category.is_(None), _d.c.status == "pending", is_any_of(_d.c.endpoint, idle)),
        *(_d.c.available_at > now, _d.c.lease_owner.is_(None)),
    )
    ids = (
        connection.execute(query.limit(limit).with_for_update(skip_locked=True, key_share=True))
        .scalars()
        .all()
    )
    if ids:
        change_all(connection, ids, {"next_attempt_at": now, "available_at": now, "round_started_at": now})
        announce(connection)
    return len(ids)


def shorten_waits(connection: Connection, *, now: float, lease_seconds: float, limit: int = 500) -> int:
    """After the store's clock was set back, shorten waits that are longer than their delays, and long leases.

    Only endpoints with a last claim in the future are searched.

    Returns:
        The number of deliveries with a shorter wait; call again while it equals ``limit``.
    """
    claims, attempts = schema.claims, schema.attempts.c
    is_ahead = claims.c.last_claim_at > now + _MARGIN_SECONDS
    endpoints = connection.execute(select(claims.c.endpoint).where(is_ahead)).scalars().all()
    if not endpoints:
        return 0
    delay = func.coalesce(attempts.delay, 0.0)
    is_last = and_(
        *(attempts.delivery_id == _d.c.id, attempts.number == _d.c.attempts, attempts.late.is_(False))
    )
    is_held = _d.c.lease_owner.is_not(None)

    def waiting_too_long(at: Column[float]) -> Select[Any]:
        return (
            select(_d.c.id, at.label("at"), _d.c.backoff_until, delay.label("delay"))
            .outerjoin(schema.attempts, is_last)
            .where(is_any_of(_d.c.endpoint, endpoints), at > now + delay + _MARGIN_SECONDS)
            .order_by(_d.c.id)
        )

    def locked(query: Select[Any]) -> Sequence[Row[Any]]:
        query = query.with_for_update(of=schema.deliveries, skip_locked=True, key_share=True)
        return connection.execute(query).all()

    parked = waiting_too_long(_d.c.available_at).where(~is_held)
    rows = locked(parked.limit(limit))
    changes = [_shortened(row, now) for row in rows]
    change_each(connection, [each | {"available_at": each["next_attempt_at"]} for each in changes])
    if len(rows) < limit:
        is_leased = is_any_of(_d.c.endpoint, endpoints) & is_held
        leased = select(_d.c.id).where(is_leased, _d.c.available_at > now + lease_seconds)
        change_all(connection, [row.id for row in locked(leased)], {"available_at": now + lease_seconds})
        # They wait in the process that holds them, until it ends.
        waiting = waiting_too_long(_d.c.next_attempt_at).where(is_held)
        change_each(connection, [_shortened(row, now) for row in locked(waiting)])
        # Search for a while longer: other processes may still store times by the old clock, and rows may be locked.
        until = now + max(SECONDS_BETWEEN_COMPARISONS, lease_seconds) + 2 * _MARGIN_SECONDS
        connection.execute(update(claims).where(claims.c.last_claim_at > until).values(last_claim_at=until))
    return len(rows)


def _shortened(row: Row[Any], now: float) -> dict[str, object]:
    at = now + row.delay
    until = row.backoff_until and row.backoff_until - (row.at - at)
    return {"id": row.id, "next_attempt_at": at, "backoff_until": until}


def _charge_crashes(connection: Connection, rows: Sequence[Row[tuple[object, ...]]], now: float) -> None:
    tally = Tally(now)
    changes: list[dict[str, object]] = []
    history: list[dict[str, Any]] = []
    causes: dict[object, Cause] = {}
    final: list[tuple[Row[Any], dict[str, Any]]] = []
    for row in rows:
        is_final = row.crashes + 1 >= LOST_LEASES_BEFORE_GIVING_UP
        attempt = Attempt(
            number=row.attempts + 1,
            round=row.round,
            started_at=max(row.next_attempt_at, row.accepted_at),
            duration=0.0,
            result="lost",
            category="unknown",
            code="worker_lost",
            blame="local",
            maybe_processed=True,
            error_type="WorkerLost",
            error="the worker was lost while sending",
            decision="give_up" if is_final else "retry",
            next_attempt_at=None if is_final else now,
            owner=row.lease_owner,
        )
        history.append(attempt_row(row.id, attempt, late=False))
        changes.append(
            {
                "id": row.id,
                "attempts": attempt.number,
                "crashes": row.crashes + 1,
                "status": "dead_letter" if is_final else "retrying",
                "reason": "crashed" if is_final else None,
                "finished_at": now if is_final else None,
                "next_attempt_at": attempt.next_attempt_at,
                "available_at": attempt.next_attempt_at,
                "backoff_until": None if is_final else row.backoff_until,
                "lease_owner": None,
                "sending": False,
                **last_failure(history[-1]),
            }
        )
        facts = (row.endpoint, row.event_type)
        tally.add("attempt", *facts, "lost", "unknown", "worker_lost", detail=attempt.error_type)
        if is_final:
            causes[row.id] = Cause.of(*facts, "crashed", history[-1])
            final.append((row, history[-1]))
            age = now - row.accepted_at
            tally.add(
                "delivery", *facts, "dead_letter", "unknown", "worker_lost", detail="crashed", seconds=age
            )
    tried = without_polls(connection, {row.id: made["number"] for row, made in final})
    for row, _ in final:
        count_retries(tally, (row.endpoint, row.event_type), tried[row.id])
    add_attempts(connection, history)
    point_at_causes(connection, changes, causes)
    change_each(connection, changes)
    tally.write(connection)
    if final:
        report_dead_letters(connection, _dead_letters(connection, final), now=now)


def _dead_letters(
    connection: Connection, final: list[tuple[Row[Any], dict[str, Any]]]
) -> Iterator[NewDeadLetter]:
    """Yield the dead letters of crashed deliveries, given the rows of each and of its last attempt."""
    events = schema.events.c
    # Not whole events: their size may be why the workers crashed.
    query = select(events.key, events.source, events.id)
    query = query.where(is_any_of(events.key, [row.event_key for row, _ in final]))
    identities = {key: EventKey(source, id_) for key, source, id_ in connection.execute(query)}
    for row, attempt in final:
        facts = (row.id, row.round, identities[row.event_key], row.event_type, row.endpoint)
        yield NewDeadLetter(*facts, row.accepted_at, "crashed", attempt["number"], attempt)
