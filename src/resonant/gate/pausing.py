"""Operators pause an endpoint, resume it, and send its parked deliveries now. The audit records each change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from resonant.display import one_line
from resonant.gate.words import paused_since
from resonant.store.audit import add_to_audit, audited, begin_audit, end_audit
from resonant.store.engine.wakeup import announce
from resonant.store.queue.parked import make_parked_due
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gates_and_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Row

    from resonant.store import Store
    from resonant.store.audit import Action

# The deliveries that one transaction makes due: few enough that outcomes do not wait long for it.
_BATCH = 500
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
    """
    reason = one_line(reason or "") or None

    def paused(gate: Gate, now: float) -> Gate:
        if gate.state == "paused" and not gate.is_gone:
            return gate
        after = Gate(endpoint, "paused", since=now, reason=reason, not_before=gate.not_before, paused_by=who)
        # For `resume`: an endpoint that was failing is probed, and a paced one is paced again.
        if gate.state == "paced":
            return replace(after, paced_at=gate.paced_at, pace=gate.pace)
        return after if gate.state == "normal" else replace(after, failing_since=gate.down_since)

    change = await _change_and_audit(
        store, endpoint, paused, "pause", who, {"endpoint": endpoint, "reason": reason}
    )
    if change.after == change.before:
        text = f"is already {paused_since(change.before)}"
    else:
        text = f"is paused: its deliveries wait until `resonant endpoint resume {endpoint}`"
    return OperatorChange(change.before, change.after, f"endpoint {endpoint} {text}")


async def resume(store: Store, endpoint: str, *, who: str, send_parked: bool = False) -> OperatorChange:
    """Resume a paused endpoint, as it was before: normal or paced. If it was failing, or answered 410, a probe is due now.

    The next probe of an endpoint that is probing is due now, too. An earlier Retry-After is dropped: the operator's decision
    overrides it. With ``send_parked``, its parked deliveries are due now, too. The caller has checked the endpoint's name.
    """
    selection = {"endpoint": endpoint, "now": send_parked}
    if not send_parked:
        change = await _change_and_audit(store, endpoint, _resumed, "resume", who, selection)
        return OperatorChange(change.before, change.after, _resumed_text(change))
    async with audited(store, who=who, action="resume", selection=selection) as audit_id:
        change = await store.write(_change, endpoint, _resumed)
        made_due = await _make_all_parked_due(store, endpoint, audit_id)
    parked = "1 parked delivery is" if made_due == 1 else f"{made_due:,} parked deliveries are"
    text = f"{_resumed_text(change)}; {parked} due now"
    return OperatorChange(change.before, change.after, text, made_due)


def _resumed(gate: Gate, now: float) -> Gate:
    if gate.state == "paused":
        after = Gate(gate.endpoint, since=now, reason="it was resumed")
        if gate.is_gone or gate.failing_since is not None:
            return replace(after, state="probing", failing_since=now, probe_at=now)
        return after if gate.paced_at is None else replace(after, state="paced", paced_at=now, pace=gate.pace)
    is_due = gate.probe_at is None or gate.probe_at <= now
    if gate.state != "probing" or (is_due and not gate.not_before):
        return gate
    # The new `since` restarts the state, so that processes also drop a remembered Retry-After.
    return replace(gate, since=now, probe_at=now, not_before=None)


def _resumed_text(change: GateChange) -> str:
    text = f"endpoint {change.before.endpoint} was not paused"
    match change.before.state:
        case "paused":
            return f"endpoint {change.before.endpoint} is resumed: {_RESUMED[change.after.state]}"
        case "probing":
            return f"{text}, but probing: a probe is due now"
        case state:
            return f"{text}: it is {state}"


async def _change_and_audit(
    store: Store,
    endpoint: str,
    new: Callable[[Gate, float], Gate],
    action: Action,
    who: str,
    selection: dict[str, object],
) -> GateChange:
    def run(connection: Connection) -> GateChange:
        change, now = _change(connection, endpoint, new), store.clock()
        if change.after != change.before:
            audit_id = begin_audit(connection, at=now, who=who, action=action, selection=selection)
            end_audit(connection, audit_id, now=now)
        return change

    return await store.write(run)


def _change(connection: Connection, endpoint: str, new: Callable[[Gate, float], Gate]) -> GateChange:
    """Change a gate; retry if another process changed it meanwhile."""
    while True:
        gates, now = read_gates_and_clock(connection)
        gate = gates.get(endpoint, Gate(endpoint))
        change = GateChange(gate, new(gate, now))
        if change.after == gate or change_gate(connection, change):
            announce(connection)
            return change


async def _make_all_parked_due(store: Store, endpoint: str, audit_id: int) -> int:
    now, made_due = store.clock(), 0
    last: Row[Any, Any] | None = None

    def run(connection: Connection) -> Sequence[Row[Any, Any]]:
        batch = make_parked_due(connection, endpoint, limit=_BATCH, now=now, after=last)
        add_to_audit(connection, audit_id, len(batch))
        return batch

    while batch := await store.write(run):
        made_due, last = made_due + len(batch), batch[-1]
    return made_due
