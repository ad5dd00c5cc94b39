"""Accepts events: idempotent by source and id, and routed by the subscriptions unless an endpoint is named.

All in one transaction, possibly the producer's own. ``enqueue`` and the HTTP intake are built on it.
"""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Connection, Select, select

from resonant.errors import ConflictingEvent, EndpointError, InvalidEvent, TryAgain
from resonant.events import ENDPOINT_NAME, Event, EventKey, rfc3339
from resonant.events.webhook_ids import webhook_id
from resonant.store import schema
from resonant.store.counts import acceptances
from resonant.store.engine.clock import read_clock
from resonant.store.engine.sql import Unless, insert_missing, is_any_of_given
from resonant.store.queue.events import read_events
from resonant.store.shared.erased import KEY, erasure_key, find_erased, known_key
from resonant.store.shared.subscriptions import current_router

_SHOWN_CHARACTERS = 200
_MOST_PASSES = 10
_second_first = itemgetter(1, 0)
_d = schema.deliveries.c
# The key of an event, and the name of an endpoint.
_DeliveryName: TypeAlias = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Conflict:
    """A refused event: its source and id already exist with different content."""

    given: Event
    stored: Event

    def __str__(self) -> str:
        return f"{self.without_content}: given {_summary(self.given)}; stored {_summary(self.stored)}"

    @property
    def without_content(self) -> str:
        """The message without the content of the events."""
        return f"id {self.given.id!r} of source {self.given.source!r} already exists with different content"


@dataclass(frozen=True, slots=True)
class Unrouted:
    """A refused event: no endpoint is named, and no subscription matches it."""

    given: Event

    def __str__(self) -> str:
        return (
            f"no subscription wants type {self.given.type!r} of source {self.given.source!r} (id {self.given.id!r}): "
            f"{self.remedy}"
        )

    @property
    def remedy(self) -> str:
        """The command that adds a subscription, for a message."""
        return f"`resonant subscription add ENDPOINT {shlex.quote(self.given.type)}` adds one"


class Acceptance(NamedTuple):
    """The outcome of one event.

    Attributes:
        event: as it was given.
        duplicate: whether the deliveries to these endpoints were known, or the event was erased.
        endpoints: the named endpoint; without one, those that the event was routed to when it was first stored, sorted.
        problem: why it is not stored; None if it is, or if no subscription had to match.
        delivery_ids: the keys of the deliveries to these endpoints.
        erased: whether this event was erased. It stays erased, and is not sent again.
    """

    event: Event
    duplicate: bool = False
    endpoints: tuple[str, ...] = ()
    problem: Conflict | Unrouted | None = None
    delivery_ids: tuple[int, ...] = ()
    erased: bool = False


# Plain tuples: named ones would take a tenth of the time of a large batch.
# An event with its identity and digest, the name of its endpoint or None, and the endpoints that get it if it is new.
_Given: TypeAlias = tuple[Event, EventKey, str, str | None, tuple[str, ...]]
# The key and the digest of a stored event, and the endpoints that this transaction has routed it to.
_Stored: TypeAlias = tuple[int, str, tuple[str, ...]]
# An event with its key, the endpoints that must have deliveries, and its problem.
_Checked: TypeAlias = tuple[Event, int, tuple[str, ...], Conflict | Unrouted | None]


def accept(
    connection: Connection,
    wanted: Iterable[tuple[Event, str | None]],
    *,
    now: float | None = None,
    policy: str | None = None,
    max_attempts: int | None = None,
    allow_unrouted: bool = False,
    wake: bool = True,
) -> list[Acceptance]:
    """Store events with their deliveries; return the outcome of each, in the given order.

    An event with a problem is not stored; the others are. An event that was erased is not stored again. The caller rolls back if
    it wants all or nothing.

    Args:
        connection: in a write transaction.
        wanted: each event with the name of its endpoint; with None, the subscriptions decide. An event that is already stored keeps
            its endpoints.
        now: seconds since the epoch; the store's time by default.
        policy: a policy's name, stored with the deliveries.
        max_attempts: overrides the policy's limit; stored with the deliveries.
        allow_unrouted: an event that no subscription matches is no problem, and is not stored.
        wake: wake idle drains on commit.

    Raises:
        EndpointError: invalid name.
        InvalidEvent: an archived event has no data.
        TryAgain: another transaction has just erased an event; a new transaction finds it erased.
    """
    now = read_clock(connection) if now is None else now
    every = given = _find_endpoints(connection, list(wanted))
    erased = find_erased(connection, (identity for _, identity, *_ in every))
    stored, forms = _store_events(connection, every, erased, now)
    if erased:
        given = [each for each in every if each[1] not in erased]
    if connection.dialect.name == "postgresql":
        _refuse_erased_meanwhile(connection, given)
    checked = _check(connection, given, stored)
    missing = {(key, endpoint): event.type for event, key, endpoints, _ in checked for endpoint in endpoints}
    options = {"policy": policy, "max_attempts": max_attempts}
    inserted = _insert_deliveries(connection, missing, now, options, wake=wake)
    if "removed" in forms.values():
        new = {key for key, _ in inserted if forms.get(key) == "removed"}
        _restore_bodies(connection, checked, new)
    named_before = {key for key, _ in missing.keys() - inserted}
    routed_before = {key for _, key, endpoints, problem in checked if not endpoints and not problem}
    known = _read_deliveries(connection, named_before | routed_before)
    routes = _by_event(known) if routed_before else {}
    outcomes = _outcomes(checked, routes, inserted | known, set(inserted.values()))
    if erased:
        rest = iter(outcomes)
        outcomes = [
            Acceptance(event, duplicate=True, erased=True) if identity in erased else next(rest)
            for event, identity, *_ in every
        ]
    if not allow_unrouted:
        return outcomes
    return [each._replace(problem=None) if isinstance(each.problem, Unrouted) else each for each in outcomes]


def _refuse_erased_meanwhile(connection: Connection, given: list[_Given]) -> None:
    """Refuse events that were stored again, since their insert has waited for an erasure."""
    if find_erased(connection, (identity for _, identity, *_ in given)):
        raise TryAgain("an event was erased meanwhile: store the events again")


def _find_endpoints(connection: Connection, wanted: list[tuple[Event, str | None]]) -> list[_Given]:
    names = {name for _, name in wanted}
    lists: dict[str | None, tuple[str, ...]] = {name: (name,) for name in names if name is not None}
    if not all(ENDPOINT_NAME.fullmatch(name) for name in names if name is not None):
        # The message omits the name: it may be a URL with a secret, and names get into labels and logs.
        raise EndpointError(
            "an endpoint's name may contain only lower case letters, digits and single dashes, as in billing-eu"
        )
    # A producer that names its endpoints needs no privilege on the tables of the subscriptions.
    route = current_router(connection).endpoints if None in names else None
    return [
        (event, event.identity, event.digest, name, lists.get(name) or (route(event) if route else ()))
        for event, name in wanted
    ]


def _check(connection: Connection, given: list[_Given], stored: dict[EventKey, _Stored]) -> list[_Checked]:
    checked: list[_Checked] = []
    for event, identity, digest, name, endpoints in given:
        if (known := stored.get(identity)) is None:
            checked.append((event, 0, (), Unrouted(event)))
            continue
        key, known_digest, routed = known
        if digest != known_digest and (conflict := _conflict(connection, event, key, known_digest)):
            checked.append((event, key, (), conflict))
        else:
            checked.append((event, key, routed if name is None else endpoints, None))
    return checked


def _store_events(
    connection: Connection, given: list[_Given], erased: set[EventKey], now: float
) -> tuple[dict[EventKey, _Stored], dict[int, str | None]]:
    """Insert the missing events that have an endpoint and were not erased.

    Args:
        connection: in a write transaction.
        given: the events.
        erased: the identities of those that are known to be erased; gets those that are found later.
        now: seconds since the epoch.

    Returns:
        What is stored of each given event, and the forms of known events.
    """
    # The first of equal ones.
    first = {each[1]: each for each in reversed(given) if each[4] and each[1] not in erased}
    others = {identity for _, identity, *_ in given if identity not in first}
    stored: dict[EventKey, _Stored] = {}
    forms: dict[int, str | None] = {}
    taken: set[str] = set()
    # The second pass inserts events whose ids other sources have, and those that the first did not insert because an erasure
    # has made a key. It takes more only if a purge removes an event between the insert and the lock.
    for number in range(_MOST_PASSES):
        unstored = first.keys() - stored.keys() - erased
        if number and unstored and erasure_key(connection):
            erased |= find_erased(connection, unstored)
            unstored -= erased
        if not (unstored or others):
            return stored, forms
        # In the order of the ids, so that two producers of the same ids cannot deadlock.
        missing = sorted(unstored, key=_second_first)
        inserted = _insert_events(connection, [first[each] for each in missing], taken, now)
        stored |= inserted
        # In one call, which locks them in order.
        if unknown := [*others, *(identity for identity in missing if identity not in inserted)]:
            for identity, known, its_webhook_id, form in _find_known(connection, unknown):
                if identity in first or identity in others:
                    # Unless this call has inserted it: an id that sources share finds the events of all.
                    stored.setdefault(identity, known)
                    forms[known[0]] = form
                if its_webhook_id == identity.id:
                    taken.add(identity.id)
        others = set()
    raise ConflictingEvent(f"the webhook-id of the event {missing[0].id!r} belongs to another event")


def _insert_events(
    connection: Connection, given: list[_Given], taken: set[str], now: float
) -> dict[EventKey, _Stored]:
    """Insert events; return those that were inserted. The others are known, or their webhook-ids are taken."""
    table, time_of_acceptance = schema.events.c, rfc3339(now)
    rows = []
    for event, identity, digest, _, _ in given:
        # An archived event with a hash keeps it.
        is_taken = event.id in taken or event.webhook_id not in (None, event.id)
        row = {
            "id": event.id,
            "source": event.source,
            "type": event.type,
            "subject": event.subject,
            "time": event.time or time_of_acceptance,
            "digest": digest,
            "accepted_at": now,
            "webhook_id": webhook_id(identity, is_taken=is_taken),
            "form": None if event.form == "json" else _form_of(event),
            "datacontenttype": event.datacontenttype,
            "dataschema": event.dataschema,
            "extensions": event.extensions_json,
            "traceparent": event.traceparent,
            "tracestate": event.tracestate,
            "body": event.body,
        }
        rows.append(row)
    unless = Unless(KEY, known_key(connection))
    inserted = insert_missing(
        connection, schema.events, rows, table.source, table.id, table.key, unless=unless
    )
    keys: dict[tuple[str, str], int] = {(source, id_): key for source, id_, key in inserted}
    return {
        identity: (keys[identity], digest, endpoints if name is None else ())
        for _, identity, digest, name, endpoints in given
        if identity in keys
    }


def _form_of(event: Event) -> str:
    if event.form in ("removed", "erased"):
        raise InvalidEvent(f"the data of the event {event.id!r} was {event.form}: it cannot be stored again")
    return event.form


def _restore_bodies(connection: Connection, checked: list[_Checked], keys: set[int]) -> None:
    """Store the bodies of these events again, which the retention of bodies has removed: they have new deliveries."""
    table = schema.events
    # In one order, so that two producers of the same events cannot deadlock.
    for event, key, *_ in sorted(checked, key=itemgetter(1)):
        if key in keys:
            values = {"body": event.body, "form": None if event.form == "json" else event.form}
            connection.execute(
                table.update().where(table.c.key == key, table.c.form == "removed").values(values)
            )


def _find_known(
    connection: Connection, identities: Iterable[EventKey]
) -> Iterator[tuple[EventKey, _Stored, str, str | None]]:
    """Lock the stored events with these ids, of any source, in the order of their keys; yield each with its webhook-id and form."""
    rows = connection.execute(_holding(), {"ids": [identity.id for identity in identities]}).all()
    for source, id_, key, digest, *rest in rows:
        yield EventKey(source, id_), (key, digest, ()), *rest


def _insert_deliveries(
    connection: Connection,
    types: Mapping[_DeliveryName, str],
    now: float,
    options: dict[str, Any],
    *,
    wake: bool,
) -> dict[_DeliveryName, int]:
    """Insert deliveries, given the types of their events, and count them; return the keys of those that were missing."""
    common = {
        "status": "pending",
        "accepted_at": now,
        "round_started_at": now,
        "next_attempt_at": now,
        "available_at": now,
        **options,
    }
    # In one order, so that two producers of the same events cannot deadlock. By endpoint, because each statement inserts a part of
    # the rows, and counts its deliveries of each endpoint.
    rows = [
        {"event_key": name[0], "endpoint": name[1], "event_type": types[name], **common}
        for name in sorted(types, key=_second_first)
    ]
    then = acceptances.adding_and_waking if wake else acceptances.adding
    inserted = insert_missing(
        connection, schema.deliveries, rows, _d.event_key, _d.endpoint, _d.id, then=then
    )
    if connection.dialect.name == "sqlite":
        acceptances.add(connection, Counter([endpoint for _, endpoint, _ in inserted]))
    return {(key, endpoint): id_ for key, endpoint, id_ in inserted}


def _read_deliveries(connection: Connection, event_keys: set[int]) -> dict[_DeliveryName, int]:
    """Return the keys of all deliveries of these events."""
    if not event_keys:
        return {}
    rows = connection.execute(_of_events(), {"keys": list(event_keys)}).all()
    return {(key, endpoint): id_ for key, endpoint, id_ in rows}


def _by_event(names: Iterable[_DeliveryName]) -> dict[int, tuple[str, ...]]:
    """Return the endpoints of each event, sorted."""
    found: defaultdict[int, tuple[str, ...]] = defaultdict(tuple)
    for key, endpoint in sorted(names):
        found[key] += (endpoint,)
    return found


def _outcomes(
    checked: list[_Checked],
    routes: Mapping[int, tuple[str, ...]],
    ids: Mapping[_DeliveryName, int],
    new: set[int],
) -> list[Acceptance]:
    """Return the outcome of each event, given the endpoints of those routed before, and the keys of all and of new deliveries."""
    outcomes = []
    for event, key, its_endpoints, problem in checked:
        if problem:
            outcomes.append(Acceptance(event, problem=problem))
            continue
        endpoints = its_endpoints or routes[key]
        delivery_ids = [ids[key, endpoint] for endpoint in endpoints]
        outcomes.append(Acceptance(event, new.isdisjoint(delivery_ids), endpoints, None, tuple(delivery_ids)))
        new.difference_update(delivery_ids)  # a repeat in the same call is a duplicate
    return outcomes


def _conflict(connection: Connection, event: Event, key: int, digest: str) -> Conflict | None:
    """Return the conflict of an event with a known one that has another digest; None if it is a repeat.

    It is a repeat if it has the time of acceptance that the store gave to the known one, as an archived event does.
    """
    stored = read_events(connection, [key])[key]
    parts = {name: getattr(event, name) for name in Event.__slots__}
    timeless = Event.from_stored(**{**parts, "time": None})
    is_repeat = event.time == stored.time and timeless.digest == digest
    return None if is_repeat else Conflict(event, stored)


@cache
def _holding() -> Select[Any]:
    table = schema.events.c
    query = select(table.source, table.id, table.key, table.digest, table.webhook_id, table.form)
    query = query.where(is_any_of_given(table.id, "ids")).order_by(table.key)
    return query.with_for_update(read=True, key_share=True)


@cache
def _of_events() -> Select[Any]:
    return select(_d.event_key, _d.endpoint, _d.id).where(is_any_of_given(_d.event_key, "keys"))


def _summary(event: Event) -> str:
    text = "" if event.form == "bytes" else event.body.decode()
    if event.form == "bytes" or len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}… ({len(event.body):,} bytes, sha256 {sha256(event.body).hexdigest()[:12]})"
    attributes = {
        "type": event.type,
        "time": event.time,
        "subject": event.subject,
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        "extensions": event.extensions_json,
        "data": {"absent": None, "removed": "(removed)"}.get(event.form, text),
    }
    return " ".join(f"{name}={value}" for name, value in attributes.items() if value is not None)
