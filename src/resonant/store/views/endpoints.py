"""The endpoints known to the store, and those that the last run could not open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from resonant.store import schema
from resonant.store.counts.acceptances import read_endpoints
from resonant.store.engine.sql import insert_into

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

_ledgers = schema.endpoints
_problems = schema.endpoint_problems
_deliveries = schema.deliveries


@dataclass(frozen=True, slots=True)
class EndpointProblem:
    """An endpoint with waiting deliveries that could not be opened.

    Attributes:
        endpoint: the endpoint's name.
        reason: the error on one line, without secrets.
        since: when a run first failed to open it, seconds since the epoch.
    """

    endpoint: str
    reason: str
    since: float


def names(connection: Connection) -> set[str]:
    """Return the endpoints that were added, or for which a delivery was ever accepted."""
    return set(read_endpoints(connection))


def remember(connection: Connection, added: Collection[str]) -> None:
    """Record endpoints that were added, so that their names are known before the first delivery."""
    if added:
        new = insert_into(connection.dialect.name, _ledgers).on_conflict_do_nothing()
        connection.execute(new, [{"name": name} for name in sorted(added)])


def forget(connection: Connection, name: str) -> None:
    """Record that an endpoint was removed. Its name stays known if a delivery was ever accepted for it."""
    never_used = (_ledgers.c.accepted == 0, _ledgers.c.purged == 0)
    connection.execute(_ledgers.delete().where(_ledgers.c.name == name, *never_used))


def codes(connection: Connection) -> set[str]:
    """Return the codes of all dead letters, including codes of user rules."""
    return set(connection.execute(select(schema.causes.c.code).distinct()).scalars()) - {""}


def has_code(connection: Connection, code: str) -> bool:
    """Return whether a delivery failed with this code; may scan all deliveries."""
    of_causes = exists().where(schema.causes.c.code == code)
    of_deliveries = exists().where(_deliveries.c.code == code)
    return bool(connection.execute(select(of_causes | of_deliveries)).scalar())


def note_problem(connection: Connection, endpoint: str, reason: str, *, now: float) -> None:
    """Record that an endpoint with deliveries cannot be opened; the time of the first failure is kept."""
    if endpoint not in names(connection):
        return
    new = insert_into(connection.dialect.name, _problems).values(endpoint=endpoint, reason=reason, since=now)
    connection.execute(
        new.on_conflict_do_update(index_elements=["endpoint"], set_={"reason": new.excluded.reason})
    )


def clear_problem(connection: Connection, endpoint: str) -> None:
    """Record that an endpoint can be opened."""
    connection.execute(_problems.delete().where(_problems.c.endpoint == endpoint))


def with_problems(connection: Connection) -> set[str]:
    """Return the endpoints with a recorded problem."""
    return set(connection.execute(select(_problems.c.endpoint)).scalars())


def problems(connection: Connection, endpoint: str | None = None) -> list[EndpointProblem]:
    """Return the endpoints with unfinished deliveries that could not be opened, by name."""
    waits = exists().where(
        _deliveries.c.endpoint == _problems.c.endpoint, _deliveries.c.available_at.is_not(None)
    )
    query = select(_problems).where(waits).order_by(_problems.c.endpoint)
    if endpoint is not None:
        query = query.where(_problems.c.endpoint == endpoint)
    return [EndpointProblem(row.endpoint, row.reason, row.since) for row in connection.execute(query)]
