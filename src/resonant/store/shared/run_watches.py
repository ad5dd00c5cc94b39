"""Watches: the flows whose failed runs an endpoint gets, and the time until which these runs were read from Prefect.

A watch belongs to the Prefect server on which it was enabled: other servers have other runs. Its times are by that server's clock.
"""

from dataclasses import dataclass, fields

from sqlalchemy import ColumnElement, Connection, and_, select, update

from resonant.routing.globs import any_glob
from resonant.store import schema
from resonant.store.audit import AuditAction, record_change
from resonant.store.engine.sql import insert_into

_w = schema.run_watches
_READ_AGAIN_SECONDS = 86_400.0
# Reports read the server's time in whole seconds, and slightly late, so a new watch may seem to begin after it.
_BEGINS_AHEAD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RunWatch:
    """An endpoint gets an event for each failed flow run that matches.

    Times are seconds since the epoch by the server's clock, like those of the runs.

    Attributes:
        flow: glob for the flow's name; empty for all.
        tag: a tag of the run; empty for all.
        server: the Prefect server whose runs are watched; empty for a watch of an older Resonant until a server claims it.
        watermark: all runs that failed between ``created_at`` and this time are stored.
        created_at: runs that failed before this time are not stored.
    """

    endpoint: str
    flow: str = ""
    tag: str = ""
    server: str = ""
    watermark: float = 0.0
    created_at: float = 0.0

    def __str__(self) -> str:
        tag = f" with the tag {self.tag}" if self.tag else ""
        return f"failed, crashed and late runs of {self.flow or 'every flow'}{tag}"

    @property
    def selection(self) -> dict[str, str]:
        """What the user chose, as columns."""
        return {"endpoint": self.endpoint, "flow": self.flow, "tag": self.tag}

    def matches_flow(self, name: str) -> bool:
        """Return whether the runs of the flow with this name are watched."""
        return not self.flow or any_glob([self.flow])(name)


def add_watch(
    connection: Connection, watch: RunWatch, *, who: str, now: float, since: float | None = None
) -> bool:
    """Store a watch; return False if it exists, which changes nothing.

    Args:
        since: when it begins, by the server's clock; None: now.
    """
    _claim(connection, watch.server, _is(watch, server=""))
    begins_at = now if since is None else since
    row = {**watch.selection, "server": watch.server, "watermark": begins_at, "created_at": begins_at}
    new = insert_into(connection.dialect.name, _w).values(row).on_conflict_do_nothing()
    if not connection.execute(new).rowcount:
        return False
    _audit(connection, "automation enable", watch, who=who, now=now)
    return True


def remove_watch(connection: Connection, watch: RunWatch, *, who: str, now: float) -> bool:
    """Remove a watch; return whether it existed. Stored events stay."""
    return bool(_remove(connection, _is(watch), who=who, now=now))


def remove_watches_of(connection: Connection, endpoint: str, server: str, *, who: str, now: float) -> int:
    """Remove all watches of a server's endpoint; return their number."""
    return _remove(connection, (_w.c.endpoint == endpoint) & _belongs_to(server), who=who, now=now)


def read_watches(connection: Connection, server: str | None = None) -> list[RunWatch]:
    """Return the watches of a server and those that it may claim; of all servers by default. They are sorted by all fields."""
    columns = [_w.c[each.name] for each in fields(RunWatch)]
    query = select(*columns).order_by(*columns)
    if server is not None:
        query = query.where(_belongs_to(server))
    return [RunWatch(*row) for row in connection.execute(query)]


def claim_watches(connection: Connection, server: str, *, now: float) -> list[RunWatch]:
    """Assign watches of an older Resonant to a server, if they have none yet; return the server's watches.

    A watermark in the future comes from a wrong clock, and hides failed runs, so the runs of a day are read again. If it is only
    slightly wrong, this is harmless, since each event is stored once.

    Args:
        now: the time by the server's clock.
    """
    _claim(connection, server, _w.c.server == "")
    for each in read_watches(connection, server):
        if each.watermark > now:
            began_at = each.created_at if each.created_at <= now + _BEGINS_AHEAD_SECONDS else now
            times = {"created_at": began_at, "watermark": max(began_at, now - _READ_AGAIN_SECONDS)}
            connection.execute(update(_w).where(_is(each)).values(times))
    return read_watches(connection, server)


def advance_watch(connection: Connection, watch: RunWatch, until: float) -> None:
    """Record that all runs that failed before this time are stored."""
    is_older = _w.c.watermark < until
    connection.execute(update(_w).where(_is(watch), is_older).values(watermark=until))


def _claim(connection: Connection, server: str, condition: ColumnElement[bool]) -> None:
    connection.execute(update(_w).where(condition).values(server=server))


def _remove(connection: Connection, condition: ColumnElement[bool], *, who: str, now: float) -> int:
    columns = [_w.c[each.name] for each in fields(RunWatch)]
    found = [RunWatch(*row) for row in connection.execute(_w.delete().where(condition).returning(*columns))]
    for each in found:
        _audit(connection, "automation disable", each, who=who, now=now)
    return len(found)


def _is(watch: RunWatch, server: str | None = None) -> ColumnElement[bool]:
    identity = watch.selection | {"server": watch.server if server is None else server}
    return and_(*(_w.c[name] == value for name, value in identity.items()))


def _belongs_to(server: str) -> ColumnElement[bool]:
    return _w.c.server.in_(["", server])


def _audit(connection: Connection, action: AuditAction, watch: RunWatch, *, who: str, now: float) -> None:
    identity = watch.selection | {"server": watch.server}
    selection = {name: value for name, value in identity.items() if value}
    record_change(connection, at=now, who=who, action=action, selection=selection)
