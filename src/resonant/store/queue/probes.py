"""Probes: single deliveries that are sent while the gate holds the others, of an endpoint or of an event type."""

from sqlalchemy import Connection, Row, select, union_all

from resonant.events import Lease
from resonant.store import schema
from resonant.store.queue.due_types import due_types
from resonant.store.queue.events import read_events
from resonant.store.queue.expiry import expire
from resonant.store.queue.gate_changes import change_and_report
from resonant.store.queue.impossible_rows import sound
from resonant.store.queue.leases import lease_rows, leases_of, note_claims
from resonant.store.shared.gates import Gate, Probe

_d = schema.deliveries
# The most types that are considered; the next probe considers those after the last one.
_MOST_TYPES = 200
# The due deliveries of a type that are considered at each end of its backlog.
_CANDIDATES = 50
# The most deliveries of expired events that are given up in one transaction.
_MOST_EXPIRED = 100


def claim_probe(
    connection: Connection, probe: Probe, *, owner: str, now: float, lease_seconds: float
) -> tuple[Lease, Gate] | None:
    """Reserve a probe, and lease one due delivery for it; return the lease and the gate.

    Takes the type with the lowest rank, and of its oldest and newest due deliveries the one with the fewest attempts. So one event
    or event type that the endpoint always rejects does not make it look down. Gives up the deliveries of expired events that it
    finds. If nothing is due, or another process was faster, reserves nothing and returns None.
    """
    endpoint, until = probe.before.endpoint, now + lease_seconds
    if (types := probe.types) is None:
        after = probe.before.probed_type or ""
        types = due_types(connection, endpoint, after=after, most=_MOST_TYPES, now=now)
    for _ in range(_MOST_EXPIRED):
        if (picked := _pick(connection, endpoint, sorted(types, key=probe.rank), now)) is None:
            return None
        if not read_events(connection, [picked.event_key])[picked.event_key].has_expired(now):
            break
        expired = lease_rows(connection, _d.c.id == picked.id, owner, until)
        expire(connection, leases_of(connection, expired), now=now)
    else:
        return None
    change = probe.change(picked.event_type)
    if not change_and_report(connection, change, now=now):
        return None
    [lease] = leases_of(connection, lease_rows(connection, _d.c.id == picked.id, owner, until))
    note_claims(connection, [endpoint], now)
    return lease, change.result


def _pick(
    connection: Connection, endpoint: str, types: list[str], now: float
) -> Row[tuple[object, ...]] | None:
    """Lock a due delivery of the first of these types that has a free one."""
    is_free = _d.c.lease_owner.is_(None)
    is_due = (_d.c.endpoint == endpoint, _d.c.available_at <= now, is_free)
    for event_type in types:
        of_type = select(_d.c.id).where(*is_due, _d.c.event_type == event_type)
        ends = (
            of_type.order_by(at).limit(_CANDIDATES).subquery().select()
            for at in (_d.c.available_at, _d.c.available_at.desc())
        )
        # The candidates are a subquery: a lock in the same query as their limit would lock all of them. The conditions are
        # repeated on the locked row, since another transaction may have claimed or cancelled it after the subquery read it.
        # With "+ 0", SQLite looks up the candidates instead of reading all that is due.
        ranked = (
            select(_d)
            .where(_d.c.id.in_(union_all(*ends)), _d.c.available_at + 0.0 <= now, is_free)
            .order_by(_d.c.attempts, _d.c.available_at, _d.c.id)
            .limit(1)
            .with_for_update(skip_locked=True, key_share=True)
        )
        if found := sound(connection, connection.execute(ranked).all(), now):
            return found[0]
    return None
