"""The system's own events: an endpoint is paused or recovers, a delivery is given up, an alert begins or ends.

Each is stored in the transaction of the change that it reports, and routed by the subscriptions; without a matching one, nothing
is stored. They never cause themselves: a dead letter of an own event causes none, and an endpoint gets no event about itself.

The data never contains the body of another event.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from resonant.errors import StoreError
from resonant.events import OWN_SOURCE, Event, EventKey, Lease, Reason, encode_data, is_own_type, rfc3339
from resonant.store import schema
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.accept import accept
from resonant.store.shared.gates import MOST_FAILING, Gate
from resonant.store.shared.subscriptions import current_router

logger = logging.getLogger(__name__)

DEAD = "resonant.delivery.dead"
_OF_DELIVERY = re.compile(r"delivery-(\d{1,18})-")
# The ids of these events lie between these two in the order of each database, where digits come before letters.
_FIRST, _END = "delivery-", "delivery-a"


class OwnEvent(NamedTuple):
    """The content of an own event.

    Attributes:
        key: identifies the change in this store, so that a repeat is the same event; visible ASCII.
        about: the endpoint; None for all.
        data: JSON values.
        labels: extension attributes, by which subscriptions can filter.
    """

    key: str
    about: str | None
    data: dict[str, Any]
    labels: Mapping[str, str | None]


class NewDeadLetter(NamedTuple):
    """A delivery that is given up; ``failure`` has the columns of its last failure, and ``attempts`` counts all rounds."""

    delivery_id: int
    round: int
    event: EventKey
    event_type: str
    endpoint: str
    accepted_at: float
    reason: Reason
    attempts: int
    failure: Mapping[str, Any]

    @classmethod
    def of(cls, lease: Lease, reason: Reason, attempts: int, failure: Mapping[str, Any]) -> "NewDeadLetter":
        """Return the dead letter of a leased delivery."""
        facts = (lease.delivery_id, lease.round, lease.event.identity, lease.event.type, lease.endpoint)
        return cls(*facts, lease.accepted_at, reason, attempts, failure)

    def to_report(self, now: float) -> OwnEvent:
        """Return the report; the keys of its data are those of ``resonant dlq --json``."""
        labels = {"reason": self.reason, **{name: self.failure[name] for name in ("category", "code")}}
        data = {
            "event_id": self.event.id,
            "event_type": self.event_type,
            "source": self.event.source,
            "endpoint": self.endpoint,
            **labels,
            **{name: self.failure[name] for name in ("error_type", "error", "status_code")},
            "attempts": self.attempts,
            "replays": self.round - 1,
            "accepted_at": rfc3339(self.accepted_at),
            "dead_at": rfc3339(now),
        }
        return OwnEvent(_key(self.delivery_id, self.round, self.accepted_at), self.endpoint, data, labels)


def report_dead_letters(connection: Connection, dead_letters: Iterable[NewDeadLetter], *, now: float) -> None:
    """Store an event for each dead letter, except those of own events. An operator's cancellation is not reported."""
    reported = [each for each in dead_letters if not is_own_type(each.event_type)]
    if reported:
        reports = (each.to_report(now) for each in reported)
        store_reports(connection, DEAD, reports, now=now)


def keys_of_dead_letters(deliveries: Iterable[Any]) -> dict[str, int]:
    """Map the ids of the events that may report that these deliveries were given up to the keys of the deliveries' events."""
    return {
        _key(row.id, number, row.accepted_at): row.event_key
        for row in deliveries
        for number in range(1, row.round + 1)
    }


class ReportOfPurged(NamedTuple):
    """An event about a dead letter that was purged: its key, and the identity of the dead letter's event."""

    key: int
    event: EventKey


def reports_of_purged(
    connection: Connection, is_wanted: Callable[[EventKey, str], bool], *, after: str, limit: int
) -> tuple[str | None, list[ReportOfPurged]]:
    """Find events about dead letters that were purged.

    Args:
        connection: in a transaction.
        is_wanted: returns whether the identity and type of a purged event match.
        after: continue after this id; empty at the start.
        limit: the number of events to search.

    Returns:
        The last id that was searched, or None at the end; and the events found.
    """
    e, d = schema.events.c, schema.deliveries
    query = select(e.key, e.id, e.body).where(e.source == OWN_SOURCE, e.type == DEAD, e.form.is_(None))
    # By id, so that the index of identities skips the events of producers.
    query = query.where(e.id > (after or _FIRST), e.id < _END).order_by(e.id).limit(limit)
    rows = connection.execute(query).all()
    found: list[tuple[int, ReportOfPurged]] = []
    for row in rows:
        number = _OF_DELIVERY.match(row.id)
        # The event may come from another store.
        match json.loads(row.body):
            case {"source": str(source), "event_id": str(id_), "event_type": str(event_type)} if number:
                event = EventKey(source, id_)
                if is_wanted(event, event_type):
                    found.append((int(number[1]), ReportOfPurged(row.key, event)))
    ids = {delivery_id for delivery_id, _ in found}
    query = select(d.c.id, e.source, e.id).join_from(d, schema.events, d.c.event_key == e.key)
    left = {(row[0], EventKey(*row[1:])) for row in connection.execute(query.where(is_any_of(d.c.id, ids)))}
    purged = [report for delivery_id, report in found if (delivery_id, report.event) not in left]
    return (rows[-1].id if rows else None), purged


def _key(delivery_id: int, number: int, accepted_at: float) -> str:
    # The ids of deliveries are unique in one store; receivers may get events of several.
    return f"delivery-{delivery_id}-{number}-{_milliseconds(accepted_at)}"


def report_gate(connection: Connection, before: Gate, after: Gate, *, now: float) -> None:
    """Store events if a gate's change pauses an endpoint, or if the endpoint or one of its event types fails or recovers."""
    key = f"endpoint-{after.endpoint}-{after.epoch}"
    if event_type := _type_of(before, after):
        report = OwnEvent(
            f"{key}-{_milliseconds(after.since)}", after.endpoint, gate_facts(before, after), {}
        )
        store_reports(connection, event_type, [report], now=now)
    known, found = before.failing_at(now), after.failing_at(now)
    failing = [each for name, each in found.items() if name not in known]
    # A full gate may have dropped a type for another one, which then has not recovered.
    is_full = len(after.failing) >= MOST_FAILING
    recovered = [] if is_full else [each for name, each in known.items() if name not in found]
    for change, types in (("failing", failing), ("recovered", recovered)):
        reports = [
            OwnEvent(
                f"{key}-type-{change}-{number}-{_milliseconds(now)}",
                after.endpoint,
                gate_facts(before, after)
                | {
                    "failing_since": rfc3339(each.since),
                    "reason": each.failure,
                    "event_type": each.event_type,
                },
                {"eventtype": each.event_type},
            )
            for number, each in enumerate(types)
            if not is_own_type(each.event_type)
        ]
        if reports:
            store_reports(connection, f"resonant.endpoint.{change}", reports, now=now)


def ids_of_gate(endpoint: str) -> tuple[str, str]:
    """Return two texts between which the ids of the events about an endpoint's gate are, in the order of each database."""
    return f"endpoint-{endpoint}-0", f"endpoint-{endpoint}-a"


def _type_of(before: Gate, after: Gate) -> str | None:
    if after.state == "paused":
        return None if before.state == "paused" else "resonant.endpoint.paused"
    if before.is_down == after.is_down:
        return None
    return "resonant.endpoint.failing" if after.is_down else "resonant.endpoint.recovered"


def gate_facts(before: Gate, after: Gate) -> dict[str, Any]:
    """Return a change of a gate as JSON values."""
    return {
        "endpoint": after.endpoint,
        "state": after.state,
        "before": before.state,
        "since": rfc3339(after.since),
        "failing_since": None if after.failing_since is None else rfc3339(after.failing_since),
        "reason": after.reason,
        "pace": after.pace,
        "paused_by": after.paused_by,
    }


def store_reports(
    connection: Connection, event_type: str, reports: Iterable[OwnEvent], *, now: float
) -> None:
    """Store an event for each report, to the endpoints that want it, except the endpoint of the report.

    Args:
        connection: in the write transaction of the change.
        event_type: the type of the events.
        reports: not read if no subscription has the type.
    """
    try:
        router = current_router(connection)
    except StoreError as error:
        # It must not undo the change.
        logger.error("no event %s is stored: %s", event_type, error)  # noqa: TRY400 - the message says all
        return
    if not router.may_want(event_type):
        return
    events = [(each.about, _event(event_type, each, now)) for each in reports]
    wanted = [
        (event, endpoint)
        for about, event in events
        for endpoint in router.endpoints(event)
        if endpoint != about
    ]
    if wanted:
        accept(connection, wanted, now=now)


def _event(event_type: str, report: OwnEvent, now: float) -> Event:
    labels = {name: value for name, value in sorted(report.labels.items()) if value}
    # Not validated: an invalid value must not undo the change.
    return Event.from_stored(
        id=report.key,
        type=event_type,
        source=OWN_SOURCE,
        body=encode_data(report.data),
        time=rfc3339(now),
        subject=report.about,
        extensions_json=json.dumps(labels, ensure_ascii=False, separators=(",", ":")) if labels else None,
    )


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
