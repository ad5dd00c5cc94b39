"""An operator's actions on a gate: pause an endpoint, resume it, and send its parked deliveries now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import func, literal, select, tuple_, update

from resonant.store import schema
from resonant.store.engine.sql import is_any_of
from resonant.store.engine.wakeup import announce
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

_d = schema.deliveries


def pause(
    connection: Connection, endpoint: str, *, who: str, reason: str | None = None, now: float
) -> GateChange:
    """Pause an endpoint: nothing is sent to it until it is resumed. Sends in flight are not interrupted.

    If a 410 has paused the endpoint, the operator's pause replaces that pause, and its alert ends.

    Returns:
        The change; it has no effect if an operator has already paused the endpoint.
    """

    def paused(gate: Gate) -> Gate:
        if gate.state == "paused" and not gate.is_gone:
            return gate
        is_paced = gate.state == "paced"
        return Gate(
            endpoint,
            "paused",
            epoch=gate.epoch,
            since=now,
            reason=reason,
            not_before=gate.not_before,
            paused_by=who,
            # For `resume`: an endpoint that was failing is probed, and a paced one is paced again.
            failing_since=gate.down_since if gate.state in ("probing", "paused") else None,
            paced_at=gate.paced_at if is_paced else None,
            pace=gate.pace if is_paced else None,
        )

    return _change(connection, endpoint, paused)


def resume(connection: Connection, endpoint: str, *, now: float) -> GateChange:
    """Resume a paused or probing endpoint.

    A paused endpoint that was normal or paced before is so again. If it was failing, or answered 410, its next probe is due at
    once. Drops an earlier Retry-After, which the operator's decision overrides.

    Returns:
        The change; it has no effect if the endpoint is normal or paced.
    """

    def resumed(gate: Gate) -> Gate:
        if gate.state == "paused":
            return _resumed(gate, now)
        is_due = gate.probe_at is None or gate.probe_at <= now
        if gate.state != "probing" or (is_due and not gate.not_before):
            return gate
        # The new `since` restarts the state, so that processes also drop a remembered Retry-After.
        return replace(gate, since=now, probe_at=now, not_before=None)

    return _change(connection, endpoint, resumed)


def _resumed(gate: Gate, now: float) -> Gate:
    after = Gate(gate.endpoint, epoch=gate.epoch, since=now, reason="it was resumed")
    if gate.is_gone or gate.failing_since is not None:
        return replace(after, state="probing", failing_since=now, probe_at=now)
    if gate.paced_at is not None:
        return replace(after, state="paced", paced_at=now, pace=gate.pace)
    return after


def _change(connection: Connection, endpoint: str, wanted: Callable[[Gate], Gate]) -> GateChange:
    """Change a gate; retry if another process changed it meanwhile."""
    while True:
        gate = read_gate(connection, endpoint)
        change = GateChange(gate, wanted(gate))
        if change.after == gate or change_gate(connection, change):
            announce(connection)
            return change


class MadeDue(NamedTuple):
    """The number of parked deliveries made due, and the position of the last one."""

    number: int
    last: tuple[float, int] | None


def make_parked_due(
    connection: Connection,
    endpoint: str,
    *,
    limit: int,
    now: float,
    after: tuple[float, int] | None = None,
) -> MadeDue:
    """Make up to ``limit`` parked deliveries of an endpoint due now; skip locked rows.

    A failure before the end of a delivery's own backoff is not charged.

    Args:
        connection: in a write transaction.
        endpoint: the endpoint's name.
        limit: the maximum number.
        now: seconds since the epoch.
        after: continue after this position.
    """
    key = (_d.c.available_at, _d.c.id)
    query = select(*key).where(_d.c.endpoint == endpoint, _d.c.available_at > now, _d.c.lease_owner.is_(None))
    if after is not None:
        query = query.where(
            tuple_(*key) > tuple_(*(literal(value, of.type) for value, of in zip(after, key, strict=True)))
        )
    query = query.order_by(*key).limit(limit).with_for_update(skip_locked=True, key_share=True)
    picked = connection.execute(query).all()
    if not picked:
        return MadeDue(0, None)
    connection.execute(
        update(_d)
        .where(is_any_of(_d.c.id, [row.id for row in picked]))
        .values(
            backoff_until=func.coalesce(_d.c.backoff_until, _d.c.next_attempt_at),
            next_attempt_at=now,
            available_at=now,
        )
    )
    announce(connection)
    return MadeDue(len(picked), (picked[-1].available_at, picked[-1].id))
