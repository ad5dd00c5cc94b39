"""The gate of each endpoint: one row, shared by every process, changed by compare-and-set on its epoch.

See docs/decisions/0014-the-endpoint-gate.md.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from functools import cache, lru_cache
from math import inf
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Insert,
    Select,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    true,
)

from resonant.store import schema
from resonant.store.engine.sql import SharedClock, insert_into, is_any_of

GateState = Literal["normal", "probing", "paced", "paused"]

_g = schema.gates
_d = schema.deliveries
# Maximum time that a run waits for held deliveries, in seconds: a gate may hold them for hours, and the next run sends them.
SHORT_HOLD_SECONDS = 30.0
# A gate that has been normal and unchanged for an hour is removed: an endpoint without a row is normal. What is known of a failing
# type is forgotten after an hour, too.
KEPT_SECONDS = 3600.0
# In the reason of an outage, before the last failure.
LAST_FAILURE = ", last failure: "
# The most failing types that a gate keeps, each for an hour after its last probe.
MOST_FAILING = 20
# Deliveries are recorded up to three seconds late, and failures this soon after a recovery continue the same outage. A delivery
# recorded as much later than now is from before the clock was set back.
RECENT_SECONDS = 3.0
_KEPT_GATES = 1024


@dataclass(frozen=True, slots=True)
class FailingType:
    """An event type that fails while others work. Its deliveries are held, except for probes.

    Attributes:
        event_type: the type.
        since: the first failure, seconds since the epoch.
        failure: the last failure in a few words, without text of the receiver.
        probe_at: when the next probe is due.
        tried_at: when it last failed, or was last probed.
        code: the code of the last failure.
    """

    event_type: str
    since: float
    failure: str
    probe_at: float
    tried_at: float
    code: str = ""

    def has_failed_for_long(self, now: float) -> bool:
        """Return whether a run does not wait for the deliveries of this type."""
        return self.since <= now - SHORT_HOLD_SECONDS


@dataclass(frozen=True, slots=True)
class Gate:
    """The stored state of an endpoint's gate: the columns of its row. Times are seconds since the epoch.

    Attributes:
        endpoint: the endpoint's name.
        state: ``normal`` (send freely), ``probing`` (send only probes), ``paced`` (one process sends, at a growing
            rate) or ``paused`` (by an operator, or after a 410).
        epoch: grows with each change of the row. It is at least the time in milliseconds, so that it also grows when the row
            was removed in between.
        since: when the state began.
        reason: why the state began, on one line, without secrets.
        failing_since: when the outage began; None without one. While paced or paused, the start of the outage before.
        probe_at: when the next probe is due, while probing.
        probed_type: the event type of the last probe; the next probe prefers another one.
        not_before: the end of the last Retry-After; nothing is sent before it.
        pilot: the process that sends while the gate is paced.
        pilot_until: when another process may become the pilot.
        pace: sends per second while paced; while probing, the rate before the outage; while paused, the pace before the pause.
        paused_by: the operator who paused it.
        failing: the event types that fail while others work, in the order of their last probes; see ``failing_at``.
    """

    endpoint: str
    state: GateState = "normal"
    epoch: int = 0
    since: float = 0.0
    reason: str | None = None
    failing_since: float | None = None
    probe_at: float | None = None
    probed_type: str | None = None
    not_before: float | None = None
    pilot: str | None = None
    pilot_until: float | None = None
    pace: float | None = None
    paused_by: str | None = None
    failing: tuple[FailingType, ...] = ()

    def failing_at(self, now: float) -> dict[str, FailingType]:
        """Return the types that fail at this time. Types not probed for an hour are dropped, except while probing or paused."""
        is_probed = self.state in ("normal", "paced")
        recent = (each for each in self.failing if not is_probed or each.tried_at > now - KEPT_SECONDS)
        return {each.event_type: each for each in recent}

    def failing_for_long(self, now: float) -> list[str]:
        """Return the failing types whose deliveries a run does not wait for."""
        return [name for name, each in self.failing_at(now).items() if each.has_failed_for_long(now)]

    def with_failing(self, types: Iterable[FailingType]) -> "Gate":
        """Return the gate with these failing types; only the 20 that were tried last are kept."""
        latest = sorted(types, key=lambda each: (each.tried_at, each.event_type))[-MOST_FAILING:]
        return replace(self, failing=tuple(latest))

    def holds_at(self, now: float) -> bool:
        """Return whether the gate holds any delivery back at this time: of the endpoint, or of a failing type."""
        return self.governs_at(now) or bool(self.failing_at(now))

    def governs_at(self, now: float) -> bool:
        """Return whether the gate holds deliveries back at this time, fully or partly."""
        return self.state != "normal" or (self.not_before is not None and self.not_before > now)

    @property
    def down_since(self) -> float:
        """When the outage began, or if that is unknown, when probing began."""
        return self.since if self.failing_since is None else self.failing_since

    @property
    def is_down(self) -> bool:
        """Whether the endpoint is paused or failing, or was failing and is not back to normal yet."""
        return self.state in ("paused", "probing") or self.failing_since is not None

    @property
    def is_gone(self) -> bool:
        """Whether the endpoint is paused because it answered 410, and not by an operator."""
        return self.state == "paused" and self.paused_by is None


@dataclass(frozen=True, slots=True)
class GateChange:
    """A proposed change of a gate. It is dropped if another process changed the gate first.

    Attributes:
        before: the gate as the process last read it.
        after: the proposed gate; the write sets the epoch.
        none_delivered_since: the change is refused if a delivery to the endpoint succeeded in the seconds after this time.
        at: the time of the proposal, seconds since the epoch.
    """

    before: Gate
    after: Gate
    none_delivered_since: float | None = None
    at: float = 0.0

    @property
    def result(self) -> Gate:
        """The gate after the change is written."""
        return replace(self.after, epoch=max(self.before.epoch, int(1000 * self.at)) + 1)


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe that is due: any delivery while the endpoint is probing, otherwise one of a failing type.

    Attributes:
        reserved: the gate with the next probe reserved, by the type that is probed; the key None stands for any type.
        failed_at: the last failure of each type; a probe prefers types without one, then the least recent.
        before: the gate as this process last read it.
        at: the time of the proposal.
    """

    before: Gate
    reserved: Mapping[str | None, Gate]
    failed_at: Mapping[str, float]
    at: float

    @property
    def types(self) -> list[str] | None:
        """The types of which a delivery may be the probe; None for any."""
        return [name for name in self.reserved if name is not None] or None

    def rank(self, event_type: str) -> tuple[bool, float, bool]:
        """Return the rank of a type among those that are due; the lowest is probed."""
        is_held = any(each.event_type == event_type for each in self.before.failing)
        return is_held, self.failed_at.get(event_type, -inf), event_type == self.before.probed_type

    def change(self, event_type: str) -> GateChange:
        """Return the change that reserves the probe for a delivery of this type."""
        gate = self.reserved.get(event_type) or self.reserved[None]
        is_any = None in self.reserved
        return GateChange(self.before, replace(gate, probed_type=event_type) if is_any else gate, at=self.at)


def holds_for_long(gate: Gate, now: float) -> bool:
    """Return whether a gate holds its deliveries too long for a run to wait for them."""
    is_long_down = gate.state == "probing" and gate.down_since <= now - SHORT_HOLD_SECONDS
    waits_long = gate.not_before is not None and gate.not_before > now + SHORT_HOLD_SECONDS
    return gate.state == "paused" or is_long_down or waits_long


class Gates(dict[str, Gate]):
    """The gates by endpoint; an endpoint without a row has a ``normal`` gate.

    Attributes:
        at: when they were read, by the store's clock.
    """

    at = 0.0

    def __missing__(self, endpoint: str) -> Gate:
        return Gate(endpoint)


def read_gates(connection: Connection) -> Gates:
    """Return the gates and the store's time, in one round trip."""
    rows = connection.execute(_gates_and_clock()).all()
    gates = Gates((row.endpoint, _gate(*row[1:])) for row in rows if row.endpoint is not None)
    gates.at = rows[0].shared_now
    return gates


@lru_cache(_KEPT_GATES)  # a look reads every row again, and few have changed
def _gate(*columns: Any) -> Gate:
    *others, failing = columns
    types = tuple(FailingType(*each) for each in json.loads(failing or "[]"))
    return replace(Gate(*others), failing=types)


def read_gate(connection: Connection, endpoint: str) -> Gate:
    """Return the gate of an endpoint."""
    return read_gates(connection)[endpoint]


@cache
def _gates_and_clock() -> Select[Any]:
    one = select(literal(1).label("one")).subquery()
    now = SharedClock().label("shared_now")
    return select(now, _g).select_from(one.outerjoin(_g, true())).order_by(_g.c.endpoint)


class Holds:
    """What the gates hold back at a time, in seconds since the epoch."""

    def __init__(self, gates: Gates, now: float) -> None:
        self._gates, self._now = gates, now

    def state(self, endpoint: str) -> GateState | None:
        """Return the state of an endpoint's gate; None if it is normal."""
        state = self._gates[endpoint].state
        return None if state == "normal" else state

    def why(self, endpoint: str, event_type: str) -> str:
        """Return why the gate holds a due delivery, such as ``the endpoint is probing``; empty if it holds none."""
        if state := self.state(endpoint):
            return f"the endpoint is {state}"
        return (
            f"its type {event_type} fails"
            if event_type in self._gates[endpoint].failing_at(self._now)
            else ""
        )


def are_of_types(types: Mapping[str, Collection[str]]) -> ColumnElement[bool]:
    """Return the condition that the type of a delivery is among those given for its endpoint."""
    given = types.items()
    of_each = (and_(_d.c.endpoint == name, is_any_of(_d.c.event_type, each)) for name, each in given if each)
    return or_(false(), *of_each)


def read_holds(connection: Connection, now: float) -> Holds:
    """Return what the gates hold back."""
    return Holds(read_gates(connection), now)


def change_gate(connection: Connection, change: GateChange) -> bool:
    """Write a change; return False and write nothing if the gate has changed or a delivery succeeded meanwhile."""
    gate, since = change.result, change.none_delivered_since
    if since is not None:
        recently = {"since": since, "until": since + 2 * RECENT_SECONDS, "to": gate.endpoint}
        if connection.scalar(_is_any_delivered(), recently):
            return False
    failing = json.dumps([astuple(each) for each in gate.failing]) if gate.failing else None
    values = asdict(gate) | {"failing": failing, "known_epoch": change.before.epoch}
    return bool(connection.execute(_write_if_unchanged(connection.dialect.name), values).rowcount)


def any_unused(connection: Connection) -> bool:
    """Return whether ``remove_unused`` would remove any gate."""
    return connection.execute(select(_g.c.endpoint).where(*_is_unused()).limit(1)).first() is not None


def remove_unused(connection: Connection) -> None:
    """Remove the gates that have been normal and unchanged for an hour."""
    connection.execute(_g.delete().where(*_is_unused()))


def _is_unused() -> list[ColumnElement[bool]]:
    times = (func.coalesce(column, 0.0) for column in (_g.c.since, _g.c.not_before))
    return [
        _g.c.state == "normal",
        _g.c.failing.is_(None),
        *(at < SharedClock() - KEPT_SECONDS for at in times),
    ]


@cache
def _is_any_delivered() -> Select[bool]:
    at = _d.c.finished_at
    is_recent = (at > bindparam("since"), at < bindparam("until"))
    return select(exists().where(schema.is_delivered, *is_recent, _d.c.endpoint == bindparam("to")))


@cache
def _write_if_unchanged(dialect: str) -> Insert:
    row = insert_into(dialect, _g)
    new, is_unchanged = dict(row.excluded.items()), _g.c.epoch == bindparam("known_epoch")
    return row.on_conflict_do_update(index_elements=[_g.c.endpoint], set_=new, where=is_unchanged)
