"""Announcements: events for Prefect about alerts and gates, kept until Prefect's event feed shows them.

Each is stored in the transaction of the change that it reports. ``tasks/announcements.py`` sends them.
"""

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select, update

from resonant.events import rfc3339
from resonant.store import schema
from resonant.store.engine.sql import insert_into, is_any_of

_a = schema.announcements
# A server may have no event feed, or accept no events, so that an announcement stays unconfirmed.
_KEPT_SECONDS = 86_400.0


class Announcement(NamedTuple):
    """A stored announcement.

    Attributes:
        id: the id of the Prefect event, a UUID.
        event: the other fields of the Prefect event, as JSON values.
        sent_at: when it was last sent, in seconds since the epoch; None if it never was.
    """

    id: str
    event: dict[str, Any]
    sent_at: float | None


def prefect_event(
    name: str, endpoint: str | None, payload: Mapping[str, Any], *, at: float, **labels: str
) -> dict[str, Any]:
    """Return the fields of a Prefect event, except its id.

    Args:
        name: the name of the event.
        endpoint: the endpoint that it is about; None for all.
        payload: JSON values.
        at: when the change happened, in seconds since the epoch.
        labels: labels of its resource, without the prefix ``resonant.``.
    """
    resource = {
        "prefect.resource.id": "resonant.store" if endpoint is None else f"resonant.endpoint.{endpoint}",
        "prefect.resource.name": "all endpoints" if endpoint is None else endpoint,
        **{f"resonant.{label}": value for label, value in labels.items()},
    }
    return {"event": name, "occurred": rfc3339(at), "resource": resource, "payload": dict(payload)}


def add_announcement(connection: Connection, event: Mapping[str, Any], *, now: float) -> None:
    """Store an announcement of a change, in the transaction of the change; the same one at the same time is stored once."""
    text = json.dumps(event)
    values = {"id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{now} {text}")), "event": text, "created_at": now}
    connection.execute(insert_into(connection.dialect.name, _a).values(values).on_conflict_do_nothing())


def read_announcements(connection: Connection) -> list[Announcement]:
    """Return the stored announcements, the oldest first."""
    query = select(_a.c.id, _a.c.event, _a.c.sent_at).order_by(_a.c.created_at, _a.c.id)
    return [Announcement(row.id, json.loads(row.event), row.sent_at) for row in connection.execute(query)]


def note_sent(connection: Connection, ids: Collection[str], *, now: float) -> None:
    """Record that announcements were sent."""
    _lock_all(connection)
    connection.execute(update(_a).where(is_any_of(_a.c.id, ids)).values(sent_at=now))


def forget(connection: Connection, ids: Collection[str]) -> None:
    """Delete these announcements."""
    _lock_all(connection)
    connection.execute(delete(_a).where(is_any_of(_a.c.id, ids)))


def forget_old(connection: Connection, *, now: float) -> None:
    """Delete the announcements that are a day old."""
    _lock_all(connection)
    connection.execute(delete(_a).where(_a.c.created_at < now - _KEPT_SECONDS))


def _lock_all(connection: Connection) -> None:
    """Lock the rows in one order, since several runs may send the same announcements."""
    connection.execute(select(_a.c.id).order_by(_a.c.id).with_for_update())
