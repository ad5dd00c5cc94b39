"""The status of each endpoint: its deliveries and its last hour. All queries use an index."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, case, func, select

from resonant.store import schema
from resonant.store.counts.acceptances import endpoint_names
from resonant.store.counts.recent import read_results
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.leases import NEW_SECONDS
from resonant.store.shared.gates import Gate, read_gates

HOUR_SECONDS = 3600
_d = schema.deliveries


class OldestDue(NamedTuple):
    """The earliest due times of deliveries that may be sent now, in seconds since the epoch.

    Attributes:
        backlog: of the earliest due delivery, if its event was accepted more than ``NEW_SECONDS`` ago.
        new: of events accepted since then.
    """

    backlog: float | None = None
    new: float | None = None

    @classmethod
    def of_all(cls, each: "Iterable[OldestDue]") -> "OldestDue":
        """Return the earliest times of several endpoints."""
        return cls(*(min(filter(None, times), default=None) for times in zip(cls(), *each, strict=True)))


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """The deliveries of one endpoint.

    Attributes:
        name: the endpoint's name.
        pending, retrying, delivered, dead_letter: the number of deliveries with that status.
        in_flight: unfinished deliveries that are leased.
        parked: unfinished deliveries that are due later.
        due: unfinished deliveries that may be sent now.
        oldest_due_at: the earliest due time of an unfinished delivery, seconds since the epoch.
        oldest_due: the earliest due times of deliveries that may be sent now, of its backlog and of new events.
        oldest_not_held_at: the earliest due time of an unfinished delivery that the gate does not hold back.
        delivered_last_hour: deliveries that succeeded in the last hour.
        failed_last_hour: attempts that failed or were lost in the last hour.
        gate: the endpoint's gate.
        is_held: whether the gate holds deliveries back now.
        held: deliveries that are due and held by the gate.
    """

    name: str
    pending: int
    retrying: int
    delivered: int
    dead_letter: int
    in_flight: int
    parked: int
    oldest_due_at: float | None
    oldest_due: OldestDue
    oldest_not_held_at: float | None
    delivered_last_hour: int
    failed_last_hour: int
    gate: Gate
    is_held: bool
    held: int

    @classmethod
    def unused(cls, name: str) -> "EndpointStatus":
        """Return the status of an endpoint without deliveries, activity and gate."""
        return cls(name, 0, 0, 0, 0, 0, 0, None, OldestDue(), None, 0, 0, Gate(name), is_held=False, held=0)

    @property
    def due(self) -> int:
        """Deliveries that may be sent now and have no lease."""
        return self.pending + self.retrying - self.in_flight - self.parked


def endpoint_statuses(
    connection: Connection,
    counts: Mapping[str, Counter[str]],
    *,
    now: float,
    endpoint: str | None = None,
) -> tuple[EndpointStatus, ...]:
    """Return the endpoints with deliveries, with activity in the last hour or with a governing gate, by name.

    Args:
        connection: the connection on which ``counts`` was read.
        counts: the deliveries of each endpoint by status.
        endpoint: only this endpoint.
    """
    of_endpoint = [] if endpoint is None else [_d.c.endpoint == endpoint]
    is_live = _d.c.available_at > now
    of_leases = (
        select(_d.c.endpoint, func.sum(case((is_live, 1), else_=0)), func.min(_d.c.next_attempt_at))
        .where(_d.c.lease_owner.is_not(None), *of_endpoint)
        .group_by(_d.c.endpoint)
    )
    leased = {name: (int(live), due_at) for name, live, due_at in connection.execute(of_leases)}
    of_later = select(_d.c.endpoint, func.count()).where(is_live, *of_endpoint).group_by(_d.c.endpoint)
    later = {name: count for name, count in connection.execute(of_later)}  # noqa: C416 - mypy does not treat rows as pairs
    hour = read_results(connection, since=int(now - HOUR_SECONDS))
    waiting = _oldest_waiting(connection, now, endpoint)
    gates = read_gates(connection)
    holding = {name for name, gate in gates.items() if gate.holds_at(now) and endpoint in (None, name)}

    def one(name: str) -> EndpointStatus:
        of = counts.get(name, Counter())
        live, leased_due_at = leased.get(name, (0, None))
        gate, held, not_due = gates[name], 0, later.get(name, 0)
        if name in holding:
            # While a gate governs, it holds all that is due, which is known.
            all_due = of["pending"] + of["retrying"] - not_due
            held = all_due if gate.governs_at(now) else count_held(connection, gate, now=now)
        waiting_at, oldest_due = waiting.get(name, _Waiting())
        oldest_at = min((at for at in (leased_due_at, waiting_at) if at is not None), default=None)
        return EndpointStatus(
            name=name,
            pending=of["pending"],
            retrying=of["retrying"],
            delivered=of["delivered"],
            dead_letter=of["dead_letter"],
            in_flight=live,
            parked=not_due - live,
            oldest_due_at=oldest_at,
            oldest_due=oldest_due,
            oldest_not_held_at=oldest_not_held(connection, gate, now=now) if name in holding else oldest_at,
            delivered_last_hour=hour[name, True],
            failed_last_hour=hour[name, False],
            gate=gate,
            is_held=name in holding,
            held=held,
        )

    active = {name for name, _ in hour if endpoint in (None, name)}
    names = counts.keys() | holding | active
    return tuple(map(one, sorted(names)))


class Governed(NamedTuple):
    """An endpoint whose gate holds deliveries back: the gate, and the number of due deliveries that it holds."""

    gate: Gate
    held: int


def governed(connection: Connection, *, now: float) -> list[Governed]:
    """Return the endpoints whose gate holds deliveries back now, most held deliveries first."""
    gates = (gate for gate in read_gates(connection).values() if gate.holds_at(now))
    found = [Governed(gate, count_held(connection, gate, now=now)) for gate in gates]
    return sorted(found, key=lambda each: (-each.held, each.gate.endpoint))


def count_held(connection: Connection, gate: Gate, *, now: float) -> int:
    """Return the number of due deliveries that a gate holds: all of its endpoint, or those of its failing types."""
    due = select(func.count()).select_from(_d).where(_d.c.endpoint == gate.endpoint, _d.c.available_at <= now)
    of_types = [] if gate.governs_at(now) else [is_any_of(_d.c.event_type, gate.failing_at(now))]
    return connection.execute(due.where(*of_types)).scalar_one()


def oldest_not_held(connection: Connection, gate: Gate, *, now: float) -> float | None:
    """Return the earliest due time of an unfinished delivery that a gate does not hold back; None if it holds back all."""
    if gate.governs_at(now):
        return None
    unfinished = (_d.c.endpoint == gate.endpoint, _d.c.available_at.is_not(None))
    is_failing = is_any_of(_d.c.event_type, gate.failing_at(now))
    return connection.execute(select(func.min(_d.c.next_attempt_at)).where(*unfinished, ~is_failing)).scalar()


class _Waiting(NamedTuple):
    oldest_at: float | None = None
    oldest_due: OldestDue = OldestDue()


def _oldest_waiting(connection: Connection, now: float, endpoint: str | None) -> dict[str, _Waiting]:
    """Return the earliest due time of a delivery without a lease, and of those that may be sent now, by endpoint.

    One statement looks up the first of each endpoint in the index.
    """
    since, d = now - NEW_SECONDS, _d.alias("first")
    names = endpoint_names(endpoint)
    first = select(_d.c.id).where(_d.c.endpoint == names.c.name, _d.c.lease_owner.is_(None))
    first = first.order_by(_d.c.available_at).limit(1)
    is_waiting, in_time = _d.c.available_at.is_not(None), _d.c.available_at.between(since, now)
    found: dict[str, _Waiting] = {}
    query = select(names.c.name, d.c.available_at, d.c.accepted_at)
    query = query.select_from(names.join(d, d.c.id == first.where(is_waiting).scalar_subquery()))
    for name, at, accepted_at in connection.execute(query):
        backlog_at = at if at <= now and accepted_at <= since else None
        new_at = at if at <= now and accepted_at > since else None
        found[name] = _Waiting(at, OldestDue(backlog_at, new_at))
    if backlogged := [name for name, each in found.items() if each.oldest_due.backlog is not None]:
        new = first.where(in_time, _d.c.accepted_at > since).scalar_subquery()
        query = select(names.c.name, d.c.available_at).select_from(names.join(d, d.c.id == new))
        for name, at in connection.execute(query.where(is_any_of(names.c.name, backlogged))):
            found[name] = _Waiting(found[name].oldest_at, OldestDue(found[name].oldest_due.backlog, at))
    return found
