"""Queries for operators: the balance, the dead letters, the whole history of an event."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_args

from sqlalchemy import Connection, Row, and_, case, exists, func, select

from resonant.display import some
from resonant.errors import UnknownName
from resonant.events import Attempt, DeadLetter, Delivery, Event, EventKey, Status
from resonant.store import schema
from resonant.store.counts.acceptances import read_ledgers
from resonant.store.engine.sql import end_snapshot, is_any_of
from resonant.store.queue.events import read_events
from resonant.store.views.dead_letters import DeadLetters, Position
from resonant.store.views.endpoint_problems import EndpointProblem, problems
from resonant.store.views.endpoint_status import EndpointStatus, Governed, OldestDue, endpoint_statuses
from resonant.store.views.selection import Selection

R = TypeVar("R")

_d, _a, _e, _c = schema.deliveries, schema.attempts, schema.events, schema.causes
_STATUSES: tuple[Status, ...] = get_args(Status)
_PAGE = 500
_LAST_CHARACTER = chr(sys.maxunicode)
# Ids made at the same moment reach 0.75, since they begin alike.
_NEIGHBOURS, _SIMILAR = 10, 0.8


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The balance, in one snapshot.

    Attributes:
        accepted, purged: from the ledgers.
        pending, retrying, delivered, dead_letter: counts of the rows.
        in_flight: unfinished deliveries that are leased.
        by_category: dead letters by category; those that were cancelled as ``cancelled``.
        oldest_due_at: the earliest due time of an unfinished delivery, seconds since the epoch.
        oldest_dead_at: when the oldest dead letter was given up.
        endpoint_problems: the endpoints that could not be opened and have unfinished deliveries.
        endpoints: the counts of each endpoint, sorted by name.
    """

    accepted: int
    pending: int
    retrying: int
    in_flight: int
    delivered: int
    dead_letter: int
    purged: int
    by_category: dict[str, int]
    oldest_due_at: float | None
    oldest_dead_at: float | None
    endpoint_problems: tuple[EndpointProblem, ...] = ()
    endpoints: tuple[EndpointStatus, ...] = ()

    @property
    def held(self) -> int:
        """Deliveries that are due and held by the gate of their endpoint."""
        return sum(each.held for each in self.endpoints)

    @property
    def oldest_due(self) -> OldestDue:
        """The earliest due times of deliveries that may be sent now, of backlogs and of new events."""
        return OldestDue.of_all(each.oldest_due for each in self.endpoints)

    @property
    def governed(self) -> list[Governed]:
        """The endpoints whose gate holds deliveries back, most held deliveries first."""
        found = [Governed(each.gate, each.held) for each in self.endpoints if each.is_held]
        return sorted(found, key=lambda each: (-each.held, each.gate.endpoint))

    @property
    def balanced(self) -> bool:
        """Whether accepted = pending + retrying + delivered + dead_letter + purged."""
        counted = self.pending + self.retrying + self.delivered + self.dead_letter + self.purged
        return self.accepted == counted


@dataclass(frozen=True, slots=True)
class Detail:
    """One event, its deliveries and every attempt of each."""

    event: Event
    accepted_at: float
    deliveries: tuple[tuple[Delivery, tuple[Attempt, ...]], ...]


@dataclass(frozen=True, slots=True)
class DeadLetterHistory:
    """A dead letter with all its attempts, and its event if requested."""

    dead_letter: DeadLetter
    attempts: tuple[Attempt, ...]
    event: Event | None


class ReceiverSide(NamedTuple):
    """The receiver's side of a delivery.

    Attributes:
        answer: the beginning of the receiver's answer to the last attempt, if any.
        maybe_processed: whether the receiver may have processed the event in a failed attempt.
        blame: whose fault the last attempt's failure was.
    """

    answer: str | None = None
    maybe_processed: bool = False
    blame: str | None = None


def status(connection: Connection, *, now: float, endpoint: str | None = None) -> StoreStatus:
    """Return the balance. If called through ``Store.read``, it is one snapshot.

    Args:
        endpoint: count only the deliveries of this endpoint.
    """
    of_endpoint = [] if endpoint is None else [_d.c.endpoint == endpoint]
    ledgers = read_ledgers(connection, endpoint).values()
    # Columns in the order of the index, which covers the query.
    kinds = (_d.c.category, _d.c.status, _d.c.endpoint)
    rows = connection.execute(select(*kinds, func.count()).where(*of_endpoint).group_by(*kinds))
    counts = dict.fromkeys(_STATUSES, 0)
    by_category: Counter[str] = Counter()
    by_endpoint: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for category, name, of, count in rows:
        counts[name] += count
        by_endpoint[of][name] += count
        if name == "dead_letter":
            by_category[category or "unknown"] += count
    for category, count in _cancelled(connection, endpoint):
        by_category[category or "unknown"] -= count
        by_category["cancelled"] += count
    endpoints = endpoint_statuses(connection, by_endpoint, now=now, endpoint=endpoint)
    oldest_dead = select(func.min(_d.c.finished_at)).where(schema.is_dead_letter, *of_endpoint)
    return StoreStatus(
        accepted=sum(each.accepted for each in ledgers),
        purged=sum(each.purged for each in ledgers),
        in_flight=sum(each.in_flight for each in endpoints),
        by_category={name: count for name, count in sorted(by_category.items()) if count},
        oldest_due_at=min((at for each in endpoints if (at := each.oldest_due_at) is not None), default=None),
        oldest_dead_at=connection.execute(oldest_dead).scalar(),
        endpoint_problems=tuple(problems(connection, endpoint)),
        endpoints=endpoints,
        **counts,
    )


def _cancelled(connection: Connection, endpoint: str | None) -> Iterable[Any]:
    """Count the cancelled dead letters of each cause, with its category; the index by cause covers the counts."""
    of_cause = select(func.count()).where(schema.is_dead_letter, _d.c.cause_id == _c.c.id).select_from(_d)
    query = select(_c.c.category, of_cause.scalar_subquery()).where(_c.c.reason == "cancelled")
    return connection.execute(query if endpoint is None else query.where(_c.c.endpoint == endpoint))


def each_dead_letter(
    connection: Connection,
    selection: Selection = Selection(),  # noqa: B008 - frozen
    *,
    limit: int | None = None,
    before: Position | None = None,
) -> Iterator[DeadLetter]:
    """Yield dead letters, newest first, read in pages to limit memory use, each from its own snapshot.

    With ``before``, the last one of the previous page, continue after it.
    """
    for page in _pages(connection, selection, limit, before):
        found = _dead_letters(connection, page)
        end_snapshot(connection)
        yield from found


def dead_letters_at(connection: Connection, page: Sequence[Position]) -> list[DeadLetter]:
    """Return the dead letters at these positions, newest first."""
    return _dead_letters(connection, _rows_at(connection, page))


def delivered_at(connection: Connection, page: Sequence[Position]) -> list[Delivery]:
    """Return the deliveries at these positions, of the time when they ended, newest first."""
    return [delivery_of(row) for row in _rows_at(connection, page)]


def _rows_at(connection: Connection, page: Sequence[Position]) -> Sequence[Row[Any]]:
    found = read_deliveries(connection, [each.id for each in page])
    return sorted(found, key=lambda row: (row.finished_at, row.id), reverse=True)


def _dead_letters(connection: Connection, page: Sequence[Row[Any]]) -> list[DeadLetter]:
    said = answers(connection, [row.id for row in page])
    return [_dead_letter(row, said[row.id]) for row in page]


def each_history(
    connection: Connection,
    selection: Selection = Selection(),  # noqa: B008 - frozen
    *,
    with_events: bool = False,
) -> Iterator[DeadLetterHistory]:
    """Yield dead letters with their attempts, newest first, read in pages like ``each_dead_letter``.

    With their events, a dead letter that is purged meanwhile is left out.
    """
    for page in _pages(connection, selection, None):
        ids = [row.id for row in page]
        attempts, said = _attempts(connection, ids), answers(connection, ids)
        end_snapshot(connection)
        for row in page:
            event = None
            if with_events:
                # Read one at a time: a page of the largest events would take half a gigabyte.
                event = read_events(connection, [row.event_key]).get(row.event_key)
                end_snapshot(connection)
                if event is None:
                    continue
            yield DeadLetterHistory(_dead_letter(row, said[row.id]), tuple(attempts.get(row.id, ())), event)


def answers(connection: Connection, delivery_ids: Sequence[int]) -> Mapping[int, ReceiverSide]:
    """Return the receiver's side of each of these deliveries."""
    # A late attempt of a lost lease can have the number of another attempt, and did not end the delivery.
    is_last = and_(_a.c.number == _d.c.attempts, _a.c.late.is_(False))
    is_processed = and_(_a.c.maybe_processed.is_(True), _a.c.result != "delivered")
    columns = (
        func.max(case((is_last, _a.c.excerpt))),
        func.count(case((is_processed, 1))),
        func.max(case((is_last, _a.c.blame))),
    )
    query = select(_a.c.delivery_id, *columns).join_from(_d, _a, _a.c.delivery_id == _d.c.id)
    query = query.where(is_any_of(_a.c.delivery_id, delivery_ids)).group_by(_a.c.delivery_id)
    found: defaultdict[int, ReceiverSide] = defaultdict(ReceiverSide)
    for delivery_id, answer, processed, blame in connection.execute(query):
        found[delivery_id] = ReceiverSide(answer, bool(processed), blame)
    return found


def read_deliveries(connection: Connection, delivery_ids: Sequence[int]) -> Sequence[Row[Any]]:
    """Return the rows of these deliveries, each with ``event_id``, ``source`` and ``shares_id`` of its event."""
    other = _e.alias("other")
    shares_id = exists().where(other.c.id == _e.c.id, other.c.source != _e.c.source).label("shares_id")
    query = select(_d, _e.c.id.label("event_id"), _e.c.source, shares_id)
    query = query.join_from(_d, _e, _e.c.key == _d.c.event_key)
    return connection.execute(query.where(is_any_of(_d.c.id, delivery_ids))).all()


def read_deliveries_of(connection: Connection, event_id: str, source: str) -> list[Delivery]:
    """Return the deliveries of an event, sorted by endpoint; none if no such event is stored."""
    query = select(_d, _e.c.id.label("event_id"), _e.c.source).join_from(_e, _d, _e.c.key == _d.c.event_key)
    query = query.where(_e.c.id == event_id, _e.c.source == source).order_by(_d.c.endpoint)
    return [delivery_of(row) for row in connection.execute(query)]


def find_event_ids(
    connection: Connection, prefix: str, source: str | None = None, *, limit: int
) -> list[str]:
    """Return the event ids with this prefix, of all sources or of one, sorted."""
    ids = _e.c.id
    query = select(ids).distinct().where(ids.startswith(prefix, autoescape=True)).order_by(ids).limit(limit)
    if connection.dialect.name == "sqlite":
        # LIKE with an escape character does not use the index.
        query = query.where(ids >= prefix, ids <= prefix + _LAST_CHARACTER)
    if source is not None:
        query = query.where(_e.c.source == source)
    return list(connection.execute(query).scalars())


def find_similar_id(connection: Connection, given: str, source: str | None = None) -> str | None:
    """Return the stored id that is most similar to an unknown one, of all sources or of one; None if none is close.

    Only neighbours in the order of the ids are compared: a store may have millions.
    """
    ids = _e.c.id
    near = {
        event_id
        for side, order in ((ids > given, ids), (ids < given, ids.desc()))
        for event_id, its_source in connection.execute(
            select(ids, _e.c.source).where(side).order_by(order).limit(_NEIGHBOURS)
        )
        if source in (None, its_source)
    }
    return next(iter(get_close_matches(given, near, n=1, cutoff=_SIMILAR)), None)


def find_webhook_id(connection: Connection, webhook_id: str) -> EventKey | None:
    """Return the event that receivers know by this ``webhook-id``; None if there is none."""
    found = connection.execute(select(_e.c.source, _e.c.id).where(_e.c.webhook_id == webhook_id)).first()
    return None if found is None else EventKey(*found)


def count_dead_letters(
    connection: Connection,
    selection: Selection = Selection(),  # noqa: B008 - frozen
    *,
    at_most: int | None = None,
) -> int:
    """Return the number of selected dead letters; with ``at_most``, counting stops there."""
    return DeadLetters.of(connection, selection).count(connection, at_most=at_most)


def detail(connection: Connection, event_id: str, source: str | None = None) -> Detail | None:
    """Return an event with its whole history; None if no such event is stored.

    Raises:
        UnknownName: several sources have an event with this id, and ``source`` is None.
    """
    query = select(_e.c.key, _e.c.source, _e.c.accepted_at).where(_e.c.id == event_id)
    if source is not None:
        query = query.where(_e.c.source == source)
    found = connection.execute(query).all()
    if not found:
        return None
    if len(found) > 1:
        sources = some(sorted(row.source for row in found))
        raise UnknownName(f"the id {event_id} has {len(found)} sources, so give one: {sources}")
    [row] = found
    of_event = select(_d.c.id).where(_d.c.event_key == row.key)
    ids = list(connection.execute(of_event).scalars())
    deliveries = sorted(read_deliveries(connection, ids), key=lambda each: each.endpoint)
    attempts = _attempts(connection, ids)
    return Detail(
        event=read_events(connection, [row.key])[row.key],
        accepted_at=row.accepted_at,
        deliveries=tuple((delivery_of(each), tuple(attempts.get(each.id, ()))) for each in deliveries),
    )


def _pages(
    connection: Connection, selection: Selection, limit: int | None, before: Position | None = None
) -> Iterator[Sequence[Row[tuple[object, ...]]]]:
    """Yield pages by key, so that memory holds only one page, and no page costs more than the first."""
    selected = DeadLetters.of(connection, selection)
    left = limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, left)
        keys = selected.newest(connection, limit=size, before=before, goes_on=limit != size)
        if keys:
            yield _rows_at(connection, keys)
        if len(keys) < size:
            return
        left = None if left is None else left - size
        before = keys[-1]


def _attempts(connection: Connection, delivery_ids: list[int]) -> dict[int, list[Attempt]]:
    """Return the attempts of each of these deliveries, in order."""
    query = select(_a).where(is_any_of(_a.c.delivery_id, delivery_ids)).order_by(_a.c.number, _a.c.id)
    found: dict[int, list[Attempt]] = {}
    for row in connection.execute(query).mappings():
        fields = {name: value for name, value in row.items() if name not in ("id", "delivery_id")}
        found.setdefault(row["delivery_id"], []).append(Attempt(**fields))
    return found


def _dead_letter(row: Row[tuple[object, ...]], answered: ReceiverSide) -> DeadLetter:
    return _built(
        DeadLetter,
        row,
        dead_at=row.finished_at,
        replays=row.round - 1,
        answer=answered.answer,
        maybe_processed=answered.maybe_processed,
    )


def delivery_of(row: Row[tuple[object, ...]]) -> Delivery:
    """Convert a row to a delivery."""
    return _built(
        Delivery,
        row,
        replays=row.round - 1,
        leased_by=row.lease_owner,
        lease_until=None if row.lease_owner is None else row.available_at,
    )


def _built(record: Callable[..., R], row: Row[tuple[object, ...]], **others: object) -> R:
    """Build a record of these values, and of the columns with the names of its other fields."""
    columns = {name: getattr(row, name) for name in _names(record) if name not in others}
    return record(**columns, **others)


@cache
def _names(record: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))
