"""Operators pause an endpoint, resume it, and send its parked deliveries now. The audit records each change."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, exists, func, select, update

from resonant.display import counted, one_line
from resonant.errors import ResonantError
from resonant.events import rfc3339
from resonant.store import Store, schema
from resonant.store.audit import add_to_audit, audited, record_change
from resonant.store.engine.sql import is_any_of
from resonant.store.engine.wakeup import announce
from resonant.store.queue.gate_changes import change_and_report
from resonant.store.shared.gates import Gate, GateChange, read_gates

_d, _a = schema.deliveries.c, schema.attempts.c
# The deliveries that one transaction makes due: few enough that outcomes do not wait long for it.
_BATCH = 500
# The status, the artifacts and the events about gates show each reason on one line.
_LONGEST_REASON = 500
_RESUMED = {
    "normal": "its deliveries are sent again",
    "paced": "its deliveries are sent again, at a pace that grows",
    "probing": "a probe is due now and, if it succeeds, the other deliveries follow",
}


@dataclass(frozen=True, slots=True)
class OperatorChange:
    """The effect of a pause or a resumption.

    Attributes:
        before, after: the gate before and after; equal if nothing had to be changed.
        text: a sentence for the operator.
        made_due: how many parked deliveries were made due; None if not requested.
    """

    before: Gate
    after: Gate
    text: str
    made_due: int | None = None


async def pause(store: Store, endpoint: str, *, who: str, reason: str | None = None) -> OperatorChange:
    """Pause an endpoint until it is resumed: nothing new is sent to it, and its deliveries wait in the store.

    Sends in flight are not interrupted. If a 410 has paused the endpoint, the operator's pause replaces that pause, and its
    alert ends. If an operator has paused it, nothing changes. The caller has checked the endpoint's name.

    Raises:
        ResonantError: the reason is longer than 500 characters.
    """
    reason = one_line(reason or "") or None
    if reason and len(reason) > _LONGEST_REASON:
        raise ResonantError(f"the reason has {len(reason):,} characters: write at most {_LONGEST_REASON}")

    def paused(gate: Gate, now: float) -> Gate:
        if gate.state == "paused" and not gate.is_gone:
            return gate
        after = Gate(endpoint, "paused", since=now, reason=reason, not_before=gate.not_before, paused_by=who)
        after = after.with_failing(gate.failing_at(now).values())
        # For `resume`: an endpoint that was failing is probed, and a paced one is paced again.
        if gate.state == "paced":
            return replace(after, pace=gate.pace)
        return after if gate.state == "normal" else replace(after, failing_since=gate.down_since)

    entry = {"who": who, "selection": {"endpoint": endpoint, "reason": reason}}
    change = await store.write(_change_and_audit, endpoint, paused, at=store.clock(), action="pause", **entry)
    if change.after == change.before:
        why = f": {change.after.reason}" if change.after.reason else ""
        text = f"is already paused, since {rfc3339(change.after.since)} by {change.after.paused_by}{why}"
    else:
        text = f"is paused: its deliveries wait until `resonant endpoint resume {endpoint}`"
    return OperatorChange(change.before, change.after, f"endpoint {endpoint} {text}")


async def resume(store: Store, endpoint: str, *, who: str, send_parked: bool = False) -> OperatorChange:
    """Resume a paused endpoint, as it was before: normal or paced. If it was failing, or answered 410, a probe is due now.

    The next probes of a probing endpoint, and of failing event types, are due now, too. An earlier Retry-After is dropped: the
    operator's decision overrides it. With ``send_parked``, its parked deliveries are due now, too. The caller has checked the
    endpoint's name.
    """
    now, selection = store.clock(), {"endpoint": endpoint, "now": send_parked}
    if not send_parked:
        entry = {"who": who, "action": "resume", "selection": selection}
        change = await store.write(_change_and_audit, endpoint, _resumed, at=now, **entry)
        return OperatorChange(change.before, change.after, _resumed_text(change))
    made_due, due_from = 0, 0.0
    async with audited(store, who=who, action="resume", selection=selection) as audit_id:
        change, newest = await store.write(_change_and_mark, endpoint, _resumed, at=now)
        make_due = partial(
            make_parked_due, endpoint=endpoint, limit=_BATCH, now=now, newest=newest, audit_id=audit_id
        )
        while (batch := await store.write(make_due, due_from=due_from)) is not None:
            made_due, due_from = made_due + batch.made_due, batch.last_due
    parked = counted(made_due, "parked delivery is", "parked deliveries are")
    text = f"{_resumed_text(change)}; {parked} due now"
    return OperatorChange(change.before, change.after, text, made_due)


def _resumed(gate: Gate, now: float) -> Gate:
    failing = gate.failing_at(now).values()
    gate = gate.with_failing(
        replace(each, probe_at=min(each.probe_at, now), tried_at=max(each.tried_at, now)) for each in failing
    )
    if gate.state == "paused":
        after = Gate(gate.endpoint, since=now, reason="it was resumed", failing=gate.failing)
        if gate.is_gone or gate.failing_since is not None:
            return replace(after, state="probing", failing_since=now, probe_at=now)
        return after if gate.pace is None else replace(after, state="paced", pace=gate.pace)
    is_due = gate.probe_at is None or gate.probe_at <= now
    if gate.state != "probing" or (is_due and not gate.not_before):
        return gate
    # The new `since` restarts the state, so that processes also drop a remembered Retry-After.
    return replace(gate, since=now, probe_at=now, not_before=None)


def _resumed_text(change: GateChange) -> str:
    name, state = change.before.endpoint, change.before.state
    if state == "paused":
        return f"endpoint {name} is resumed: {_RESUMED[change.after.state]}"
    found = ", but probing: a probe is due now" if state == "probing" else f": it is {state}"
    if state != "probing" and change.after.failing:
        found += ", and probes of its failing types are due now"
    return f"endpoint {name} was not paused{found}"


def _change_and_audit(
    connection: Connection, /, endpoint: str, new: Callable[[Gate, float], Gate], **entry: Any
) -> GateChange:
    change = _change(connection, endpoint, new, at=entry["at"])
    if change.after != change.before:
        record_change(connection, **entry)
    return change


def _change(
    connection: Connection, endpoint: str, new: Callable[[Gate, float], Gate], *, at: float
) -> GateChange:
    """Change a gate; retry if another process changed it meanwhile."""
    while True:
        gates = read_gates(connection)
        gate = gates[endpoint]
        change = GateChange(gate, new(gate, gates.at), at=gates.at)
        if change.after == gate or change_and_report(connection, change, now=at):
            announce(connection)
            return change


def _change_and_mark(
    connection: Connection, endpoint: str, new: Callable[[Gate, float], Gate], *, at: float
) -> tuple[GateChange, int]:
    """Change a gate; return also the key of the newest attempt, 0 if there is none."""
    return _change(connection, endpoint, new, at=at), connection.execute(
        select(func.max(_a.id))
    ).scalar() or 0


class Batch(NamedTuple):
    """How many parked deliveries were made due, and when the last one found was due before."""

    made_due: int
    last_due: float


def make_parked_due(
    connection: Connection,
    endpoint: str,
    *,
    limit: int,
    now: float,
    newest: int,
    due_from: float = 0.0,
    audit_id: int | None = None,
) -> Batch | None:
    """Make up to ``limit`` parked deliveries of an endpoint due now, except locked rows. Return None if there are none.

    Those that are due first come first; those due before ``due_from`` are left out. A failure before the end of a delivery's
    own backoff is not charged.

    Args:
        newest: the key of the newest attempt when the operator decided; later failures keep their waits, such as a Retry-After.
    """
    has_failed_since = exists().where(_a.delivery_id == _d.id, _a.number == _d.attempts, _a.id > newest)
    first = (
        select(_d.id, _d.available_at)
        .where(_d.endpoint == endpoint, _d.available_at > now, _d.lease_owner.is_(None))
        .where(_d.available_at >= due_from, ~has_failed_since)
        .order_by(_d.available_at, _d.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    if not (picked := connection.execute(first).all()):
        return None
    # Before its first failure, it has none, even if it seems to wait since the clock was set back.
    own_end = case((_d.last_delay.is_not(None), func.coalesce(_d.backoff_until, _d.next_attempt_at)))
    made_due = {"backoff_until": own_end, "next_attempt_at": now, "available_at": now}
    is_picked = is_any_of(_d.id, [row.id for row in picked])
    # PostgreSQL locks the newest version of a row, but looks for its attempts in the query's snapshot, which may be older.
    done = connection.execute(
        update(schema.deliveries).where(is_picked, ~has_failed_since).values(made_due)
    ).rowcount
    add_to_audit(connection, audit_id, done)
    announce(connection)
    return Batch(done, picked[-1].available_at)
