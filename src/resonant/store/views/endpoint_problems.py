"""The endpoints that the last run could not open, or could not send to for lack of a token or a proxy."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, exists, select

from resonant.store import schema
from resonant.store.counts.acceptances import read_ledgers
from resonant.store.engine.sql import insert_into, is_any_of

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


def note_problems(connection: Connection, reasons: Mapping[str, str], *, now: float) -> set[str]:
    """Record why endpoints cannot be opened, by name; the time of the first failure is kept.

    Returns:
        The endpoints whose reasons were recorded: those with deliveries.
    """
    if noted := reasons.keys() & read_ledgers(connection).keys():
        new = insert_into(connection.dialect.name, _problems)
        change = {"reason": new.excluded.reason}
        rows = [{"endpoint": name, "reason": reasons[name], "since": now} for name in sorted(noted)]
        connection.execute(new.on_conflict_do_update(index_elements=["endpoint"], set_=change), rows)
    return noted


def clear_problems(connection: Connection, endpoints: Collection[str]) -> None:
    """Record that endpoints can be opened and sent to."""
    connection.execute(_problems.delete().where(is_any_of(_problems.c.endpoint, endpoints)))


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
