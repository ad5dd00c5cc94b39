"""The signing-secret rotations that runs use; ``rotate-secret`` waits for runs with an older one.

A time identifies a rotation (``previous_signing_secret_until``), so nothing here is derived from a secret. A run announces
itself before it reads the endpoint, and the command reads this table after it has saved the new secret. So the command
misses no run: a run that announces itself later also reads the new secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select

from resonant.store import schema
from resonant.store.engine.sql import insert_into

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

# A run reports every BEAT_SECONDS, and counts as dead LIVE_SECONDS after its last report.
BEAT_SECONDS, LIVE_SECONDS = 10.0, 60.0
_KEPT_SECONDS = 3600.0

_signers = schema.signers


def report(connection: Connection, owner: str, rotations: Mapping[str, float | None], *, now: float) -> None:
    """Record the rotation that a live run uses for each of these endpoints."""
    new = insert_into(connection.dialect.name, _signers)
    rows = [
        {"owner": owner, "endpoint": endpoint, "rotation": rotation, "seen_at": now}
        for endpoint, rotation in sorted(rotations.items())
    ]
    if rows:
        changed = {"rotation": new.excluded.rotation, "seen_at": new.excluded.seen_at}
        connection.execute(
            new.on_conflict_do_update(index_elements=["owner", "endpoint"], set_=changed), rows
        )


def leave(connection: Connection, owner: str, *, now: float) -> None:
    """Remove the reports of a run that is ending, and those of runs killed long ago."""
    old = _signers.c.seen_at < now - _KEPT_SECONDS
    connection.execute(_signers.delete().where(or_(_signers.c.owner == owner, old)))


def withdraw(connection: Connection, owner: str, endpoint: str) -> None:
    """Remove a run's announcement of an endpoint that it does not use."""
    connection.execute(_signers.delete().where(_signers.c.owner == owner, _signers.c.endpoint == endpoint))


def behind(connection: Connection, endpoint: str, rotation: float, *, now: float) -> int:
    """Return the number of live runs that do not use this rotation yet."""
    query = (
        select(func.count())
        .select_from(_signers)
        .where(
            _signers.c.endpoint == endpoint,
            _signers.c.seen_at > now - LIVE_SECONDS,
            _signers.c.rotation.is_distinct_from(rotation),
        )
    )
    return int(connection.execute(query).scalar_one())
