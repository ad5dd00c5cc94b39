"""``enqueue``, by which producers store events."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from resonant.errors import ConflictingEvent, UnroutedEvent
from resonant.events import Event, refuse_own
from resonant.store.engine.sql import require_connection
from resonant.store.queue.accept import Acceptance, Conflict, Unrouted, accept


@dataclass(frozen=True, slots=True)
class EnqueueResult:
    """The outcome of a batch: deliveries accepted now, deliveries known before, refused events, events that were erased.

    ``unrouted`` also has the events that ``allow_unrouted`` accepts as no delivery. ``delivery_ids`` holds the keys of the
    accepted and the known deliveries. ``dropped_traces`` counts the given events whose ``traceparent`` or ``tracestate`` was
    invalid; they are stored without it. ``outcomes`` has one outcome for each given event, in their order.
    """

    accepted: int = 0
    known: int = 0
    conflicts: tuple[Conflict, ...] = ()
    delivery_ids: tuple[int, ...] = field(default=(), repr=False, compare=False)
    dropped_traces: int = 0
    unrouted: tuple[Unrouted, ...] = ()
    outcomes: tuple[Acceptance, ...] = field(default=(), repr=False, compare=False)
    erased: int = 0


def enqueue(
    connection: Connection,
    events: Event | Iterable[Event],
    endpoint: str | None = None,
    *,
    now: float | None = None,
    policy: str | None = None,
    max_attempts: int | None = None,
    report_conflicts: bool = False,
    allow_unrouted: bool = False,
    wake: bool = True,
) -> EnqueueResult:
    """Store one or more events inside the caller's transaction; the caller commits.

    Without an endpoint, the subscriptions decide which endpoints get an event, when it is first stored. Enqueueing the same
    source, id and content again changes nothing, even if the subscriptions have changed or the event was erased.
    Transactions with a common id wait for each other; on SQLite, all writers do. Prefer one call with many events: a call locks
    its ids in order, so two calls cannot deadlock. On PostgreSQL, a crash of the server loses the events together with the rest of
    the transaction if its ``synchronous_commit`` is off.

    Args:
        connection: an open transaction on a database that has Resonant's tables (``create_schema`` creates them). With
            an ``AsyncConnection``, call ``await connection.run_sync(enqueue, ...)``; with a ``Session``, pass
            ``session.connection()``.
        events: one or more events, all held in memory.
        endpoint: the only endpoint that gets the events; None: each endpoint with a matching subscription.
        now: seconds since the epoch; by default, the time of PostgreSQL's server, or with SQLite that of this machine.
        policy: a policy's name, stored with the deliveries.
        max_attempts: overrides the policy's limit; stored with the deliveries.
        report_conflicts: return conflicts and events without a matching subscription, instead of raising at the first one; they
            are not stored.
        allow_unrouted: an event without a matching subscription is no error; it is counted, but not stored.
        wake: wake idle drains on commit; otherwise a drain finds the events within a quarter of a second, or 5 seconds while
            searches are slow. On PostgreSQL, waking is a NOTIFY: such commits wait for each other, and the transaction cannot be
            prepared.

    Raises:
        InvalidEvent: the source is ``/resonant``, or the type begins with ``resonant.``: these are Resonant's own.
        EndpointError: invalid name. A name has lower case letters, digits and single dashes, and the prefix
            ``BLOCK-TYPE/`` unless it is a webhook.
        ConflictingEvent: a source and id already exist with different content (unless ``report_conflicts``).
        UnroutedEvent: no subscription matches an event (unless ``report_conflicts`` or ``allow_unrouted``).
        StoreUnavailable: on PostgreSQL, another transaction has just erased an event; a new transaction finds it erased
            (``Store.enqueue`` begins one by itself).
        TypeError: ``connection`` is not an SQLAlchemy ``Connection``.
    """
    require_connection(connection)
    given = [events] if isinstance(events, Event) else list(events)
    for event in given:
        # Archives contain Resonant's own events, which have been stored before.
        if event.webhook_id is None:
            refuse_own(event.type, event.source)
    outcomes = accept(
        connection,
        [(event, endpoint) for event in given],
        now=now,
        policy=policy,
        max_attempts=max_attempts,
        wake=wake,
    )
    problems = [each.problem for each in outcomes if each.problem]
    conflicts = tuple(each for each in problems if isinstance(each, Conflict))
    unrouted = tuple(each for each in problems if isinstance(each, Unrouted))
    if conflicts and not report_conflicts:
        raise ConflictingEvent(str(conflicts[0]))
    if unrouted and not report_conflicts and not allow_unrouted:
        raise UnroutedEvent(str(unrouted[0]))
    delivery_ids = [id_ for each in outcomes for id_ in each.delivery_ids]
    known = sum([len(each.endpoints) for each in outcomes if each.duplicate])
    return EnqueueResult(
        len(delivery_ids) - known,
        known,
        conflicts,
        tuple(dict.fromkeys(delivery_ids)),
        sum([each.event.drops_trace for each in outcomes]),
        unrouted,
        tuple(outcomes),
        sum([each.erased for each in outcomes]),
    )
