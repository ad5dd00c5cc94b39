"""The counters and gauges of a store, read in one snapshot.

Counters come from the ledgers and the sketches of the span *ever*, which only grow; gauges come from the current rows.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, case, func, select

from resonant.store import Store, schema
from resonant.store.counts.acceptances import read_ledgers
from resonant.store.counts.counters import read_ever
from resonant.store.counts.sketches import Labels, Sketch
from resonant.store.engine.sql import is_any_of
from resonant.store.shared.acknowledgements import read_acknowledged
from resonant.store.shared.drains import farthest_clock
from resonant.store.shared.gates import Gate, read_gates
from resonant.store.views.dead_letters import DeadLetters
from resonant.store.views.endpoint_status import count_held, oldest_not_held
from resonant.store.views.selection import Selection

if TYPE_CHECKING:
    from resonant.metrics.statistics import Statistics

K = TypeVar("K")

_d, _c = schema.deliveries, schema.causes


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters and gauges; every time is seconds since the epoch. ``read_totals`` fills the mappings.

    Attributes:
        accepted: number of accepted deliveries by endpoint, for each one that was added or for which an event was accepted.
        counted: counters and histograms since the creation of the store; see ``store.counts.counters`` for the measures.
        deliveries: number of deliveries, by endpoint and status.
        dead_letters: number of dead letters, by endpoint, category and reason.
        oldest_due_at: earliest due time of an unfinished delivery, by endpoint, without the event types that fail while others
            work.
        oldest_dead_at: when the oldest dead letter was given up, by endpoint; cancelled deliveries and acknowledged causes,
            which need no action, are excluded.
        last_seen_at: when a worker last claimed deliveries, by endpoint; a purge does not change it.
        gates: the stored gates, by endpoint; an endpoint without one has a normal gate.
        held: number of deliveries that are due and held by a gate, by endpoint.
        clock_ahead: how far the store's clock is ahead of the clock of the live run that differs most, in seconds.
        oldest_round_at: when the oldest round of an unfinished delivery began, keyed by (endpoint, policy requested by the
            producer).
        oldest_held_round_at: the same of the event types that fail, for each endpoint whose gate holds only these.
    """

    taken_at: float
    accepted: dict[str, int] = field(default_factory=dict)
    counted: dict[Labels, Sketch] = field(default_factory=dict)
    deliveries: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead_letters: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    oldest_due_at: dict[str, float] = field(default_factory=dict)
    oldest_dead_at: dict[str, float] = field(default_factory=dict)
    last_seen_at: dict[str, float] = field(default_factory=dict)
    gates: dict[str, Gate] = field(default_factory=dict)
    held: Counter[str] = field(default_factory=Counter)
    clock_ahead: float = 0.0
    oldest_round_at: dict[tuple[str, str | None], float] = field(default_factory=dict)
    oldest_held_round_at: dict[tuple[str, str | None], float] = field(default_factory=dict)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.accepted)


async def measure(store: Store, *, hours: float) -> "tuple[Totals, Statistics]":
    """Read counters and gauges, and compute the statistics of the last hours, from one snapshot.

    Raises:
        StoreUnavailable: the store became unavailable.
    """
    from resonant.metrics.statistics import read_statistics  # noqa: PLC0415 - loads pandas

    now = store.clock()

    def read(connection: Connection) -> "tuple[Totals, Statistics]":
        found = read_statistics(connection, now=now, since=now - hours * 3600)
        return read_totals(connection, now=now), found

    return await store.read(read)


def read_totals(connection: Connection, *, now: float) -> Totals:
    """Read the counters and the gauges."""
    claims = select(schema.claims.c.endpoint, schema.claims.c.last_claim_at)
    ledgers = read_ledgers(connection)
    totals = Totals(
        taken_at=now,
        accepted={endpoint: ledger.accepted for endpoint, ledger in ledgers.items()},
        counted=read_ever(connection),
        last_seen_at={endpoint: at for endpoint, at in connection.execute(claims) if at is not None},
        gates=read_gates(connection),
        clock_ahead=farthest_clock(connection, now=now),
    )
    _add_unfinished(totals, connection)
    _add_dead(totals, connection)
    # Most rows are delivered, so counting them would be slow. Subtract the others from all stored rows.
    others: Counter[str] = Counter()
    for (endpoint, _), number in totals.deliveries.items():
        others[endpoint] += number
    for endpoint, ledger in ledgers.items():
        if delivered := ledger.accepted - ledger.purged - others[endpoint]:
            totals.deliveries[endpoint, "delivered"] = delivered
    return totals


def _add_unfinished(totals: Totals, connection: Connection) -> None:
    """Add all gauges of unfinished deliveries, with one query."""
    now = totals.taken_at
    key = (_d.c.endpoint, _d.c.status, _d.c.policy)
    due = func.sum(case((_d.c.available_at <= now, 1), else_=0))
    query = select(*key, func.count(), due, func.min(_d.c.next_attempt_at), func.min(_d.c.round_started_at))
    unfinished = query.where(_d.c.available_at.is_not(None)).group_by(*key)
    for endpoint, status, policy, number, due_now, due_at, began_at in connection.execute(unfinished):
        totals.deliveries[endpoint, status] += number
        _keep_least(totals.oldest_due_at, endpoint, due_at)
        _keep_least(totals.oldest_round_at, (endpoint, policy), began_at)
        if due_now and endpoint in totals.gates and totals.gates[endpoint].governs_at(now):
            totals.held[endpoint] += int(due_now)
    for endpoint, gate in totals.gates.items():
        if (failing := gate.failing_at(now)) and not gate.governs_at(now):
            totals.held[endpoint] = count_held(connection, gate, now=now)
            totals.oldest_due_at.pop(endpoint, None)
            _keep_least(totals.oldest_due_at, endpoint, oldest_not_held(connection, gate, now=now))
            held = (
                _d.c.endpoint == endpoint,
                _d.c.available_at.is_not(None),
                is_any_of(_d.c.event_type, failing),
            )
            rounds = select(_d.c.policy, func.min(_d.c.round_started_at)).where(*held).group_by(_d.c.policy)
            for policy, began_at in connection.execute(rounds):
                _keep_least(totals.oldest_held_round_at, (endpoint, policy), began_at)


def _add_dead(totals: Totals, connection: Connection) -> None:
    """Add the numbers of dead letters, and the oldest of each endpoint, using their causes."""
    found = DeadLetters.of(connection, Selection()).count_by_cause(connection)
    acknowledged = read_acknowledged(connection)
    key = (_c.c.id, _c.c.endpoint, _c.c.category, _c.c.reason, _c.c.fingerprint)
    causes = {cause: rest for cause, *rest in connection.execute(select(*key))}
    for each in found:
        endpoint, category, reason, fingerprint = causes[each.cause_id]
        # Consistent with `status`: a delivery cancelled before its first attempt has no category.
        totals.dead_letters[endpoint, category or "unknown", reason] += each.number
        totals.deliveries[endpoint, "dead_letter"] += each.number
        if reason != "cancelled" and fingerprint not in acknowledged:
            _keep_least(totals.oldest_dead_at, endpoint, each.first_at)


def _keep_least(moments: dict[K, float], key: K, moment: float | None) -> None:
    if moment is not None:
        moments[key] = min(moment, moments.get(key, moment))
