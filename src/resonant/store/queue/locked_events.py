"""Finds the events that other transactions have locked, also those that are not committed yet."""

import json
from collections.abc import Iterable

from sqlalchemy import Connection, text

from resonant.events import EventKey
from resonant.store import schema

# Only an insert notices that another transaction has inserted the same event. The server catches the error, since a savepoint
# for each event takes ten times as long. It rolls back each insert at once.
_FIND = f"""DO $$ DECLARE each jsonb; locked jsonb := '[]'; BEGIN
FOR each IN SELECT jsonb_array_elements(current_setting('resonant.events')::jsonb) LOOP BEGIN
    PERFORM FROM {schema.events.name} WHERE id = each->>1 FOR KEY SHARE;
    INSERT INTO {schema.events.name} (id, source, type, time, digest, accepted_at, webhook_id, body)
        VALUES (each->>1, each->>0, '', '', '', 0, each->>1, '');
    RAISE unique_violation;
EXCEPTION WHEN unique_violation THEN NULL; WHEN lock_not_available THEN locked := locked || jsonb_build_array(each);
END; END LOOP; PERFORM set_config('resonant.events', locked::text, true); END $$"""  # noqa: S608 - our own names


def find_locked(connection: Connection, events: Iterable[EventKey]) -> set[EventKey]:
    """Return the events for whose locks this transaction has waited, each for as long as it may wait; only on PostgreSQL."""
    given = {"events": json.dumps(list(events))}
    connection.execute(text("SELECT set_config('resonant.events', :events, true)"), given)
    connection.exec_driver_sql(_FIND)
    found = connection.execute(text("SELECT current_setting('resonant.events')")).scalar_one()
    return {EventKey(*each) for each in json.loads(found)}
