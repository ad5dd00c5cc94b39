"""Records the results of attempts, with their decisions."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Update, bindparam, select, update

from resonant.delivery.outcome import Outcome
from resonant.delivery.retry import Decision, GiveUp, Park, Retry
from resonant.events import Lease, LeaseKey
from resonant.store import schema
from resonant.store.counts.counters import DelayOf, Tally, count_retries
from resonant.store.engine.sql import is_any_of, is_any_of_given, update_these
from resonant.store.queue.attempts import (
    POLL_CODE,
    AttemptKey,
    add_attempts,
    attempt_row,
    last_failure,
    recorded_attempts,
    without_polls,
)
from resonant.store.queue.causes import Cause, point_at_causes
from resonant.store.queue.locked_rows import change_each, given_up, is_held, lock
from resonant.store.queue.own_events import NewDeadLetter, report_dead_letters

_d = schema.deliveries


def record(
    connection: Connection, outcomes: Sequence[Outcome], *, now: float, rows: Mapping[int, Any] | None = None
) -> set[LeaseKey]:
    """Write attempts and their decisions together.

    Recording is idempotent: call it again after an unconfirmed write.

    Args:
        connection: in a write transaction.
        outcomes: the attempts with their decisions.
        rows: the result of ``lock``, if this transaction has locked the deliveries.

    Returns:
        The leases whose outcome was recorded. The other leases were lost: their attempts are in the history, marked late,
        and changed nothing else.
    """
    if rows is None:
        rows = lock(connection, [outcome.lease.delivery_id for outcome in outcomes])
    # A missing delivery was finished by another worker and then purged.
    there = [outcome for outcome in outcomes if outcome.lease.delivery_id in rows]
    held = {outcome.lease.key for outcome in there if is_held(rows, outcome.lease)}
    known = recorded_attempts(connection, [o.lease.delivery_id for o in there if o.lease.key not in held])
    kept_before = {(key.delivery_id, key.number, key.owner) for key, late in known.items() if not late}
    history: list[dict[str, Any]] = []
    kept: list[tuple[Outcome, dict[str, Any]]] = []
    late: list[dict[str, Any]] = []
    standing: set[LeaseKey] = set()
    for outcome in there:
        lease, attempt = outcome.lease, outcome.attempt
        row = rows[lease.delivery_id]
        key = AttemptKey(row.id, attempt.number, attempt.started_at, attempt.owner, attempt.result)
        is_late = lease.key not in held
        if is_late:
            # The delivery has left its worker: only the history shows whose outcome was recorded.
            is_repeated = row.lease_token == lease.token and (*key[:2], lease.owner) in kept_before
        else:
            is_repeated = row.attempts >= attempt.number
        if is_repeated:
            standing.add(lease.key)
            continue
        if key in known:
            continue
        history.append(attempt_row(lease.delivery_id, attempt, late=is_late))
        if is_late:
            late.append(history[-1])
        else:
            standing.add(lease.key)
            kept.append((outcome, history[-1]))
    if late:
        _leave_out_erased_text(connection, late)
    add_attempts(connection, history)
    _write_kept(connection, kept, now)
    return standing


def _leave_out_erased_text(connection: Connection, late: list[dict[str, Any]]) -> None:
    """Remove the texts of late attempts whose events were erased meanwhile."""
    events = schema.events
    query = select(_d.c.id).join(events, events.c.key == _d.c.event_key).where(events.c.form == "erased")
    ids = [row["delivery_id"] for row in late]
    erased = set(connection.execute(query.where(is_any_of(_d.c.id, ids))).scalars())
    for row in late:
        if row["delivery_id"] in erased:
            row.update(dict.fromkeys(("error", "excerpt", "warning")))


def _write_kept(connection: Connection, kept: list[tuple[Outcome, dict[str, Any]]], now: float) -> None:
    """Change the deliveries, and count, given the outcomes with the rows of their attempts."""
    delivered: list[Outcome] = []
    changes: list[dict[str, object]] = []
    causes: dict[object, Cause] = {}
    dead_letters: list[NewDeadLetter] = []
    tally = Tally(now)
    # Polls count in attempts, but not in round_attempts.
    tried = without_polls(
        connection,
        {o.lease.delivery_id: row["number"] for o, row in kept if o.lease.attempts > o.lease.round_attempts},
    )
    for outcome, row in kept:
        lease, decision = outcome.lease, outcome.decision
        if decision is None:
            delivered.append(outcome)
            continue
        changes.append(_failure_changes(lease, row, decision, now))
        _count_failed(tally, lease, row, decision, now, tried)
        if isinstance(decision, GiveUp):
            causes[lease.delivery_id] = Cause.of(lease.endpoint, lease.event.type, decision.reason, row)
            dead_letters.append(NewDeadLetter.of(lease, decision.reason, row["number"], row))
    _deliver(connection, delivered, now)
    _count_delivered(tally, delivered, now, tried)
    point_at_causes(connection, changes, causes)
    change_each(connection, changes)
    tally.write(connection)
    report_dead_letters(connection, dead_letters, now=now)


def _deliver(connection: Connection, delivered: Iterable[Outcome], now: float) -> None:
    """Record successes: one statement per status code, since most have the same."""
    by_status_code: dict[int | None, list[int]] = {}
    for outcome in delivered:
        by_status_code.setdefault(outcome.attempt.status_code, []).append(outcome.lease.delivery_id)
    for status_code, delivery_ids in by_status_code.items():
        update_these(connection, _delivering(), delivery_ids, {"with": status_code, "at": now})


@cache
def _delivering() -> Update:
    changes = {
        # The lease is still held, so the row has the same number of attempts as the lease.
        "attempts": _d.c.attempts + 1,
        "round_attempts": _d.c.round_attempts + 1,
        "sending": False,
        "status_code": bindparam("with"),
        "status": "delivered",
        "finished_at": bindparam("at"),
        "next_attempt_at": None,
        "backoff_until": None,
        "available_at": None,
        "lease_owner": None,
    }
    return update(_d).where(is_any_of_given(_d.c.id, "ids")).values(changes)


def _failure_changes(lease: Lease, row: dict[str, Any], decision: Decision, now: float) -> dict[str, object]:
    changes = {"id": lease.delivery_id, "attempts": row["number"], "sending": False, **last_failure(row)}
    if _is_charged(decision):
        changes |= {"round_attempts": lease.round_attempts + 1, "backoff_until": None}
    match decision:
        case Retry():
            return changes | {
                "status": "retrying",
                "last_delay": decision.delay,
                "next_attempt_at": decision.next_attempt_at,
            }
        case Park():
            if decision.charged:
                changes |= {"last_delay": decision.own_delay, "backoff_until": decision.backoff_until}
            return changes | {
                "status": "retrying",
                "next_attempt_at": decision.next_attempt_at,
                "available_at": decision.next_attempt_at,
                "lease_owner": None,
            }
        case GiveUp():
            return changes | given_up(decision.reason, now)


def _is_charged(decision: Decision) -> bool:
    return not isinstance(decision, Park) or decision.charged


def _count_delivered(tally: Tally, outcomes: Iterable[Outcome], now: float, tried: Mapping[int, int]) -> None:
    """Count successes in bulk, grouped by endpoint and event type."""
    groups: defaultdict[tuple[str, str], list[list[float]]] = defaultdict(lambda: [[], [], [], []])
    for outcome in outcomes:
        lease, attempt = outcome.lease, outcome.attempt
        durations, ages, waits, retries = groups[lease.endpoint, lease.event.type]
        durations.append(attempt.duration)
        ages.append(now - lease.accepted_at)
        retries.append(tried.get(lease.delivery_id, attempt.number) - 1)
        if attempt.number == 1:
            waits.append(attempt.started_at - lease.accepted_at)
    for where, (durations, ages, waits, retries) in groups.items():
        tally.add_all("attempt", *where, "delivered", durations)
        tally.add_all("delivery", *where, "delivered", ages)
        tally.add_all("first_attempt", *where, "", waits)
        tally.add_all("retries", *where, "", retries)


def _count_failed(
    tally: Tally,
    lease: Lease,
    row: dict[str, Any],
    decision: Decision,
    now: float,
    tried: Mapping[int, int],
) -> None:
    where = (lease.endpoint, lease.event.type)
    failure = (row["category"], row["code"])
    if row["number"] == 1:
        tally.add("first_attempt", *where, seconds=row["started_at"] - lease.accepted_at)
    if row["code"] == POLL_CODE and not _is_charged(decision):
        return
    tally.add("attempt", *where, row["result"], *failure, detail=row["error_type"], seconds=row["duration"])
    if isinstance(decision, GiveUp):
        age = now - lease.accepted_at
        tally.add("delivery", *where, "dead_letter", *failure, detail=decision.reason, seconds=age)
        count_retries(tally, where, tried.get(lease.delivery_id, row["number"]))
    elif number := lease.round_attempts + _is_charged(decision):
        detail = DelayOf(number, row["retry_after"] is not None, lease.policy)
        tally.add("delay", *where, detail=detail.to_text(), seconds=decision.delay)
