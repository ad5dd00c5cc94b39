"""The names that the store knows: endpoints, codes and event ids; and messages about unknown ones."""

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import Connection, exists, select

from resonant.delivery.classification import built_in_codes
from resonant.display import some
from resonant.events import rfc3339
from resonant.store import schema
from resonant.store.counts.acceptances import read_ledgers
from resonant.store.engine.sql import insert_into, is_any_of
from resonant.store.queue.causes import is_known
from resonant.store.views.selection import Selection
from resonant.suggestions import did_you_mean, near

_ledgers = schema.ledgers


def known_endpoints(connection: Connection) -> set[str]:
    """Return the endpoints that were added, or for which a delivery was ever accepted."""
    return set(read_ledgers(connection))


def remember_endpoints(connection: Connection, added: Collection[str]) -> None:
    """Record endpoints that were added, so that their names are known before the first delivery."""
    if added:
        new = insert_into(connection.dialect.name, _ledgers).on_conflict_do_nothing()
        connection.execute(new, [{"name": name} for name in sorted(added)])


def forget_endpoint(connection: Connection, name: str) -> None:
    """Record that an endpoint was removed. Its name stays known if a delivery was ever accepted for it."""
    never_used = (_ledgers.c.accepted == 0, _ledgers.c.purged == 0)
    connection.execute(_ledgers.delete().where(_ledgers.c.name == name, *never_used))


def why_no_such_code(connection: Connection, code: str) -> str | None:
    """Return a message with suggestions if no delivery failed with this code, and the classifier has no such code."""
    built_in = built_in_codes()
    of_causes = exists().where(schema.causes.c.code == code)
    of_deliveries = exists().where(schema.deliveries.c.code == code)  # may scan all deliveries
    if code in built_in or connection.execute(select(of_causes | of_deliveries)).scalar():
        return None
    # With the codes of users' rules; these are more likely to be meant than the other codes of the classifier.
    stored = set(connection.execute(select(schema.causes.c.code).distinct()).scalars()) - {""}
    known = stored if near(code, stored) else built_in | stored
    hint = ": did you mean throttled?" if code == "http_429" else did_you_mean(code, known)
    return f"no failure has the code {code!r}{hint}"


def why_unknown(connection: Connection, selection: Selection, to: str | None = None) -> str | None:
    """Return a message with suggestions if a selection has an unknown endpoint, code or cause, or if the endpoint ``to`` is unknown."""
    known = known_endpoints(connection)
    for name in (selection.endpoint, to):
        if name is not None and name not in known:
            return f"no endpoint is named {name!r}{did_you_mean(name, known)}"
    if selection.code and (why := why_no_such_code(connection, selection.code)):
        return why
    if selection.cause is not None and not is_known(connection, selection.cause):
        return f"no dead letter has the cause {selection.cause!r}: /dead-letters lists the causes"
    return None


def why_no_such_ids(connection: Connection, ids: Collection[str]) -> str | None:
    """Return a message that names the unknown event ids; None if all are known."""
    column = schema.events.c.id
    known = connection.execute(select(column).where(is_any_of(column, ids))).scalars() if ids else ()
    missing = sorted(set(ids) - set(known))
    return f"no event has the id {some(missing)}: nothing was done" if missing else None


def why_not_this_source(
    connection: Connection, ids: Collection[str], source: str | None, *, option: str
) -> str | None:
    """Return a message that names the events with these ids, if the source must be given, or another one.

    Args:
        ids: the ids of events; unknown ones are ignored.
        source: the source that was given.
        option: the name of the option for the source.
    """
    columns = schema.events.c
    query = select(columns.id, columns.source, columns.type, columns.accepted_at)
    query = query.where(is_any_of(columns.id, ids)).order_by(columns.id, columns.source)
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for event_id, its_source, event_type, accepted_at in connection.execute(query):
        text = f"{event_id} of {its_source!r} ({event_type}, accepted {rfc3339(accepted_at)})"
        found[event_id][its_source] = text
    if source is None:
        known = [text for events in found.values() if len(events) > 1 for text in events.values()]
        return f"several sources use the same id: {some(known)}: give {option}" if known else None
    known = [text for events in found.values() if source not in events for text in events.values()]
    return f"no event with this id is of the source {source!r}; known: {some(known)}" if known else None
