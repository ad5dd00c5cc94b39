"""Probes: single deliveries that are sent to an endpoint while its gate is probing."""

from dataclasses import replace

from sqlalchemy import Connection, select

from resonant.events import Lease
from resonant.store import schema
from resonant.store.queue.events import read_events
from resonant.store.queue.expiry import expire
from resonant.store.queue.impossible_rows import sound
from resonant.store.queue.leases import lease_rows, leases_of, note_claims
from resonant.store.shared.gates import Gate, GateChange, change_gate

_d = schema.deliveries
# The due deliveries considered for a probe: behind 500 failing events of one type, the first 100 had no healthy one for two
# hours (docs/decisions/0014-the-endpoint-gate.md).
_CANDIDATES = 1_000
# The most deliveries of expired events that are given up in one transaction.
_MOST_EXPIRED = 100


def claim_probe(
    connection: Connection, change: GateChange, *, owner: str, now: float, lease_seconds: float
) -> tuple[Lease, Gate] | None:
    """Write a change that reserves a probe, and lease one due delivery for it; return the lease and the gate.

    Prefers an event type other than that of the last probe, and stores its type, then the fewest attempts. So one event or event
    type that the endpoint always rejects does not make it look down. Gives up the deliveries of expired events that it finds. If
    nothing is due, or another process was faster, reserves nothing and returns None.
    """
    endpoint = change.after.endpoint
    is_due = (_d.c.available_at <= now, _d.c.lease_owner.is_(None))
    candidates = select(_d.c.id).where(_d.c.endpoint == endpoint, *is_due)
    candidates = candidates.order_by(_d.c.available_at).limit(_CANDIDATES)
    # The candidates are a subquery: a lock in the same query as their limit would lock all of them. The conditions are
    # repeated on the locked row, since another transaction may have claimed or cancelled it after the subquery read it.
    ranked = (
        select(_d)
        .where(_d.c.id.in_(candidates.subquery().select()), *is_due)
        .order_by(_d.c.event_type == change.before.probed_type, _d.c.attempts, _d.c.available_at, _d.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
    )
    until = now + lease_seconds
    for _ in range(_MOST_EXPIRED):
        found = sound(connection, connection.execute(ranked).all(), now)
        if not found:
            return None
        [picked] = found
        if not read_events(connection, [picked.event_key])[picked.event_key].has_expired(now):
            break
        expire(
            connection,
            leases_of(connection, lease_rows(connection, _d.c.id == picked.id, owner, until)),
            now=now,
        )
    else:
        return None
    change = replace(change, after=replace(change.after, probed_type=picked.event_type))
    if not change_gate(connection, change):
        return None
    claimed = lease_rows(connection, _d.c.id == picked.id, owner, until)
    [lease] = leases_of(connection, claimed)
    note_claims(connection, [endpoint], now)
    return lease, change.result
