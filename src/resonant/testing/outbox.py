"""Reads what a program has enqueued, for the tests of that program."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.events import Event


class Enqueued(NamedTuple):
    """One event for one endpoint, with the options that were given to ``enqueue``."""

    event: Event
    endpoint: str
    policy: str | None
    max_attempts: int | None


def enqueued(connection: Connection) -> list[Enqueued]:
    """Return what has been enqueued, in order.

    Args:
        connection: the connection that was given to ``enqueue``, before or after the commit, or another one to the same
            database. With an ``AsyncConnection``, call ``await connection.run_sync(enqueued)``.

    Raises:
        TypeError: ``connection`` is not an SQLAlchemy ``Connection``.
    """
    # Imported here, since pytest loads this package in every run.
    from sqlalchemy import select  # noqa: PLC0415

    from resonant.events import Event  # noqa: PLC0415
    from resonant.store import schema  # noqa: PLC0415
    from resonant.store.engine.sql import require_connection  # noqa: PLC0415
    from resonant.store.queue.events import EVENT_COLUMNS  # noqa: PLC0415

    require_connection(connection)
    events, deliveries = schema.events, schema.deliveries.c
    rows = connection.execute(
        select(*EVENT_COLUMNS, deliveries.endpoint, deliveries.policy, deliveries.max_attempts)
        .join_from(events, schema.deliveries, events.c.key == deliveries.event_key)
        .order_by(deliveries.id)
    )
    return [
        Enqueued(Event.from_stored(*columns), endpoint, policy, max_attempts)
        for *columns, endpoint, policy, max_attempts in rows
    ]
