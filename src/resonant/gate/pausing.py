"""Pause and resume an endpoint manually, with a row in the audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resonant.display import one_line
from resonant.events import rfc3339
from resonant.store.audit import Action, add_to_audit, begin_audit, end_audit
from resonant.store.shared import gate_operations
from resonant.store.shared.gates import shared_now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from resonant.store import Store
    from resonant.store.shared.gates import Gate, GateChange

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Paused:
    """The result of a pause.

    Attributes:
        before: the gate before the pause.
        after: the gate after the pause; unchanged if the endpoint was already paused.
    """

    before: Gate
    after: Gate

    def __str__(self) -> str:
        name = self.before.endpoint
        if self.after == self.before:
            return f"endpoint {name} is already {paused_since(self.before)}"
        return f"endpoint {name} is paused: its deliveries wait until `resonant endpoint resume {name}`"


@dataclass(frozen=True, slots=True)
class Resumed:
    """The result of a resumption.

    Attributes:
        before: the gate before the resumption.
        after: the gate after the resumption; unchanged if the endpoint was normal or paced.
        made_due: how many parked deliveries were made due; None if not requested.
    """

    before: Gate
    after: Gate
    made_due: int | None = None

    def __str__(self) -> str:
        name = self.before.endpoint
        match self.before.state, self.after.state:
            case "paused", "normal":
                said = f"endpoint {name} is resumed: its deliveries are sent again"
            case "paused", "paced":
                said = f"endpoint {name} is resumed: its deliveries are sent again, at a pace that grows"
            case "paused", _:
                said = f"endpoint {name} is resumed: a probe is due now and, if it succeeds, the other deliveries follow"
            case "probing", _:
                said = f"endpoint {name} was not paused, but probing: a probe is due now"
            case state, _:
                said = f"endpoint {name} was not paused: it is {state}"
        if self.made_due is None:
            return said
        parked = "1 parked delivery is" if self.made_due == 1 else f"{self.made_due:,} parked deliveries are"
        return f"{said}; {parked} due now"


def paused_since(gate: Gate) -> str:
    """Describe since when an endpoint has been paused, by whom and why."""
    by = f" by {gate.paused_by}" if gate.paused_by else ""
    why = f": {gate.reason}" if gate.reason else ""
    return f"paused, since {rfc3339(gate.since)}{by}{why}"


async def pause(store: Store, endpoint: str, *, who: str, reason: str | None = None) -> Paused:
    """Pause an endpoint until it is resumed: nothing new is sent to it, and its deliveries wait in the store.

    Args:
        store: open.
        endpoint: the endpoint's name, which the caller has checked.
        who: the operator, for the audit.
        reason: shown with the gate.
    """
    reason = one_line(reason or "") or None

    def run(connection: Connection) -> GateChange:
        now = store.clock()
        change = gate_operations.pause(
            connection, endpoint, who=who, reason=reason, now=shared_now(connection)
        )
        if change.after != change.before:
            selection = {"endpoint": endpoint, "reason": reason}
            end_audit(connection, _begin(connection, "pause", who, selection, now), now=now)
        return change

    change = await store.write(run)
    return Paused(change.before, change.after)


async def resume(store: Store, endpoint: str, *, who: str, send_parked: bool = False) -> Resumed:
    """Resume an endpoint: it is as it was before the pause. If it was failing, a probe is due now.

    Args:
        store: open.
        endpoint: the endpoint's name, which the caller has checked.
        who: the operator, for the audit.
        send_parked: also make its parked deliveries due now.
    """

    def run(connection: Connection) -> tuple[GateChange, int | None]:
        now = store.clock()
        change = gate_operations.resume(connection, endpoint, now=shared_now(connection))
        if change.after == change.before and not send_parked:
            return change, None
        selection = {"endpoint": endpoint, "now": send_parked}
        audit_id = _begin(connection, "resume", who, selection, now)
        if not send_parked:
            end_audit(connection, audit_id, now=now)
        return change, audit_id

    change, audit_id = await store.write(run)
    if not send_parked or audit_id is None:
        return Resumed(change.before, change.after)
    try:
        made_due = await _make_parked_due(store, endpoint, audit_id)
    finally:
        await store.write(end_audit, audit_id, now=store.clock())
    return Resumed(change.before, change.after, made_due)


async def _make_parked_due(store: Store, endpoint: str, audit_id: int) -> int:
    now = store.clock()
    made_due, after = 0, None

    def run(connection: Connection) -> gate_operations.MadeDue:
        batch = gate_operations.make_parked_due(connection, endpoint, limit=_BATCH, now=now, after=after)
        add_to_audit(connection, audit_id, batch.number)
        return batch

    while True:
        batch = await store.write(run)
        if batch.last is None:
            return made_due
        made_due += batch.number
        after = batch.last


def _begin(
    connection: Connection, action: Action, who: str, selection: Mapping[str, object], now: float
) -> int:
    return begin_audit(connection, at=now, who=who, action=action, selection=selection)
