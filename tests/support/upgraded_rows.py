"""The rows of a store of 0.1.0 and of an upgraded one, in the same form."""

from sqlalchemy import MetaData

from resonant.store import schema

_EVENT = "e.id, e.source, e.type, e.subject, e.time, e.digest, e.accepted_at, e.body"
_DELIVERY = ", ".join(
    f"d.{each.name}" for each in schema.deliveries.c if each.name not in ("event_key", "replayed_to")
)
_ATTEMPT = ", ".join(f"a.{each.name}" for each in schema.attempts.c)


def drop_all(connection) -> None:
    """Drop every table of a database."""
    tables = MetaData()
    tables.reflect(connection)
    tables.drop_all(connection)


def old_rows(connection) -> dict[str, list[tuple]]:
    """Return all rows of the tables of 0.1.0."""
    return _rows(connection, "e.id = d.event_id")


def new_rows(connection) -> dict[str, list[tuple]]:
    """Return all rows of the new tables, without the new columns, and without events that producers stored meanwhile."""
    return _rows(connection, "e.key = d.event_key")


def _rows(connection, of_delivery: str) -> dict[str, list[tuple]]:
    queries = {
        "events": f"SELECT {_EVENT} FROM resonant_events e",
        "deliveries": f"SELECT e.id, {_DELIVERY} FROM resonant_deliveries d JOIN resonant_events e ON {of_delivery}",
        "attempts": f"SELECT {_ATTEMPT} FROM resonant_attempts a",
    }
    found = {}
    for name, query in queries.items():
        rows = [tuple(row) for row in connection.exec_driver_sql(query)]
        found[name] = sorted((row for row in rows if not str(row[0]).startswith("new_")), key=repr)
    return found
