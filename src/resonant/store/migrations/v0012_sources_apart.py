"""Events are identified by source and id. Deliveries refer to an integer key, and each event has a ``webhook_id``.

A large store is moved in many transactions. ``upgrade`` is the first, and takes no longer for more rows: it renames the tables of
0011 and creates empty ones. Then each event is moved with its deliveries and their attempts in one transaction, so that it is in
exactly one place. The old tables are dropped when they are empty: until then, the upgrade is not over.
"""

# ruff: noqa: S608 - only constants are inserted
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, CursorResult, TextClause, text

from resonant.errors import StoreError

logger = logging.getLogger(__name__)

revision = "0012"
down_revision = "0011"

_TABLES = ("resonant_events", "resonant_deliveries", "resonant_attempts")
_SEQUENCES = ("resonant_deliveries_id_seq", "resonant_attempts_id_seq")  # on PostgreSQL
# An arbitrary number, the same in every process: an advisory lock of PostgreSQL. The transactions that use the old tables share
# it, so that nobody drops them meanwhile.
_LOCK_KEY = 0x5E50_4A18
# The limits of one transaction, besides its number of events.
_MOST_BYTES = 16 * 1024 * 1024
_ROWS_OF_EVENT = 5

_TYPES = {
    "sqlite": {
        "serial": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT",
        "id": "INTEGER NOT NULL PRIMARY KEY",
        "key": "INTEGER",
        "double": "DOUBLE",
        "bytes": "BLOB",
    },
    "postgresql": {
        "serial": "BIGSERIAL NOT NULL PRIMARY KEY",
        "id": "BIGSERIAL NOT NULL PRIMARY KEY",
        "key": "BIGINT",
        "double": "DOUBLE PRECISION",
        "bytes": "BYTEA",
    },
}
# The indexes have other names than those of 0011: SQLite can rename a table, but not its indexes.
_NEW_TABLES = """
CREATE TABLE resonant_events (
    key {serial}, id TEXT NOT NULL, source TEXT NOT NULL, type TEXT NOT NULL, subject TEXT, time TEXT NOT NULL,
    digest TEXT NOT NULL, accepted_at {double} NOT NULL, webhook_id TEXT NOT NULL, form TEXT, datacontenttype TEXT,
    dataschema TEXT, extensions TEXT, traceparent TEXT, tracestate TEXT, body {bytes} NOT NULL,
    CONSTRAINT resonant_events_identity UNIQUE (id, source),
    CONSTRAINT resonant_events_webhook_id UNIQUE (webhook_id)
);
CREATE TABLE resonant_deliveries (
    id {serial}, event_key {key} NOT NULL REFERENCES resonant_events (key), endpoint TEXT NOT NULL, event_type TEXT NOT NULL,
    status TEXT NOT NULL, accepted_at {double} NOT NULL, policy TEXT, max_attempts INTEGER,
    round INTEGER DEFAULT '1' NOT NULL, round_started_at {double} NOT NULL, round_attempts INTEGER DEFAULT '0' NOT NULL,
    crashes INTEGER DEFAULT '0' NOT NULL, attempts INTEGER DEFAULT '0' NOT NULL, first_attempt_at {double},
    last_delay {double}, next_attempt_at {double}, backoff_until {double}, finished_at {double}, available_at {double},
    lease_owner TEXT, lease_token INTEGER DEFAULT '0' NOT NULL, sending BOOLEAN DEFAULT '0' NOT NULL, reason TEXT,
    category TEXT, code TEXT, error_type TEXT, error TEXT, status_code INTEGER, cause_id {key},
    CONSTRAINT resonant_deliveries_identity UNIQUE (event_key, endpoint)
);
CREATE INDEX resonant_delivery_status ON resonant_deliveries (category, status, endpoint);
CREATE INDEX resonant_delivery_leased ON resonant_deliveries (lease_owner, available_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX resonant_delivery_delivered ON resonant_deliveries (finished_at, id) WHERE status = 'delivered';
CREATE INDEX resonant_delivery_dead ON resonant_deliveries (finished_at, id, cause_id) WHERE status = 'dead_letter';
CREATE INDEX resonant_delivery_cause ON resonant_deliveries (cause_id, finished_at, id) WHERE status = 'dead_letter';
CREATE INDEX resonant_delivery_available ON resonant_deliveries (endpoint, available_at) WHERE available_at IS NOT NULL;
CREATE TABLE resonant_attempts (
    id {id}, delivery_id {key} NOT NULL, number INTEGER NOT NULL, round INTEGER NOT NULL, started_at {double} NOT NULL, duration {double} NOT NULL, result TEXT NOT NULL,
    late BOOLEAN DEFAULT '0' NOT NULL, early BOOLEAN DEFAULT '0' NOT NULL, status_code INTEGER, category TEXT, code TEXT,
    blame TEXT, maybe_processed BOOLEAN, error_type TEXT, error TEXT, excerpt TEXT, warning TEXT, retry_after {double},
    decision TEXT, delay {double}, next_attempt_at {double}, owner TEXT, task_run_id TEXT,
    FOREIGN KEY (delivery_id) REFERENCES resonant_deliveries (id) ON DELETE CASCADE
);
CREATE INDEX resonant_attempt_delivery ON resonant_attempts (delivery_id, number);
"""
_OF_DELIVERY = """endpoint, event_type, status, accepted_at, policy, max_attempts, round, round_started_at, round_attempts,
    crashes, attempts, first_attempt_at, last_delay, next_attempt_at, backoff_until, finished_at, available_at, lease_owner,
    lease_token, sending, reason, category, code, error_type, error, status_code, cause_id"""
_OF_ATTEMPT = """id, delivery_id, number, round, started_at, duration, result, late, early, status_code, category, code, blame,
    maybe_processed, error_type, error, excerpt, warning, retry_after, decision, delay, next_attempt_at, owner, task_run_id"""

# The condition that a text is one of those in a JSON array. On PostgreSQL, an array lets the planner use an index.
_IS_GIVEN = {
    "sqlite": "IN (SELECT value FROM json_each(:ids))",
    "postgresql": "= ANY (ARRAY(SELECT json_array_elements_text(CAST(:ids AS JSON))))",
}
# What else in the database uses the tables: it would refer to the old ones, which are dropped at the end.
_USERS = {
    "sqlite": """SELECT type, name FROM sqlite_master WHERE type <> 'index'
        AND name NOT IN ('resonant_events_0011', 'resonant_deliveries_0011', 'resonant_attempts_0011')
        AND (sql LIKE '%resonant_events_0011%' OR sql LIKE '%resonant_deliveries_0011%' OR sql LIKE '%resonant_attempts_0011%')""",
    "postgresql": """WITH tables AS (SELECT oid FROM pg_class WHERE oid IN (to_regclass('resonant_events_0011'),
            to_regclass('resonant_deliveries_0011'), to_regclass('resonant_attempts_0011')))
        SELECT 'view' AS type, CAST(CAST(ev_class AS regclass) AS text) AS name
        FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid WHERE classid = CAST('pg_rewrite' AS regclass)
        AND refclassid = CAST('pg_class' AS regclass) AND refobjid IN (SELECT oid FROM tables) AND ev_class <> refobjid
        UNION ALL SELECT 'table', CAST(CAST(conrelid AS regclass) AS text) FROM pg_constraint
        WHERE confrelid IN (SELECT oid FROM tables) AND conrelid NOT IN (SELECT oid FROM tables)
        UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM tables) AND NOT tgisinternal""",
}
_STEPS = {
    "table": "drop its foreign key, and upgrade again",
    "view": "drop it, upgrade, and create it again",
    "trigger": "drop it, upgrade, and create it again",
}
_THEIR_DELIVERIES = "(SELECT id FROM resonant_deliveries_0011 WHERE event_id {is_given})"
_MOVING = (
    """INSERT INTO resonant_events (id, source, type, subject, time, digest, accepted_at, webhook_id, body)
    SELECT id, source, type, subject, time, digest, accepted_at, id, body
    FROM resonant_events_0011 WHERE id {is_given} ORDER BY id""",
    f"""INSERT INTO resonant_deliveries (id, event_key, {_OF_DELIVERY})
    SELECT id, (SELECT key FROM resonant_events WHERE webhook_id = event_id), {_OF_DELIVERY}
    FROM resonant_deliveries_0011 WHERE event_id {{is_given}} ORDER BY id""",
    f"""INSERT INTO resonant_attempts ({_OF_ATTEMPT}) SELECT {_OF_ATTEMPT}
    FROM resonant_attempts_0011 WHERE delivery_id IN {_THEIR_DELIVERIES} ORDER BY id""",
    f"DELETE FROM resonant_attempts_0011 WHERE delivery_id IN {_THEIR_DELIVERIES}",
    "DELETE FROM resonant_deliveries_0011 WHERE event_id {is_given}",
    "DELETE FROM resonant_events_0011 WHERE id {is_given}",
)
_NEXT = "SELECT id, event_id FROM resonant_deliveries_0011 WHERE id > :after ORDER BY id LIMIT :most"
# Every event has deliveries, unless an operator removed them.
_WITHOUT_DELIVERIES = "SELECT 0, id FROM resonant_events_0011 LIMIT :most"
_SIZES = """SELECT id, length(body) AS bytes,
    (SELECT count(*) FROM resonant_deliveries_0011 WHERE event_id = events.id) AS deliveries,
    (SELECT coalesce(sum(attempts), 0) FROM resonant_deliveries_0011 WHERE event_id = events.id) AS attempts
    FROM resonant_events_0011 AS events WHERE id {is_given}"""
# Somebody's SQL has removed their events: SQLite checks foreign keys only if a connection asks for it.
_ORPHANS = """FROM resonant_deliveries_0011 WHERE event_id {is_given}
    AND NOT EXISTS (SELECT 1 FROM resonant_events_0011 AS events WHERE events.id = event_id)"""
_FORGET_ATTEMPTS = f"DELETE FROM resonant_attempts_0011 WHERE delivery_id IN (SELECT id {_ORPHANS})"
_FORGET = f"DELETE {_ORPHANS} RETURNING endpoint"
_COUNT_AS_PURGED = """INSERT INTO resonant_endpoints (name, purged) VALUES (:name, :purged)
    ON CONFLICT (name) DO UPDATE SET purged = resonant_endpoints.purged + excluded.purged"""
# Producers never wait for a transaction that waits for another producer.
_SKIP_LOCKED = {"sqlite": "", "postgresql": " FOR UPDATE OF events SKIP LOCKED"}
# In order, so that two producers cannot deadlock.
_LOCKING = "SELECT id FROM resonant_events_0011 WHERE id {is_given} ORDER BY id"
_LOCKED = {"sqlite": "", "postgresql": " FOR UPDATE"}


class Moved(NamedTuple):
    """What one transaction moved.

    Attributes:
        events: the number of events.
        deliveries: the number of their deliveries, and of removed deliveries without an event.
        last: the id of the last delivery that was considered; None if there was none.
    """

    events: int
    deliveries: int
    last: int | None


def keep_vacuum_away(connection: Connection) -> None:
    """Take a lock on PostgreSQL that only vacuum conflicts with, and not producers.

    PostgreSQL cancels an autovacuum for a lock that waits for longer than ``lock_tables`` may.
    """
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(_TABLES)} IN SHARE UPDATE EXCLUSIVE MODE")


def lock_tables(connection: Connection) -> None:
    """Wait on PostgreSQL for the transactions that use the tables, before this migration or a later one changes them."""
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(_TABLES)} IN ACCESS EXCLUSIVE MODE")


def upgrade(connection: Connection) -> None:
    """Rename the tables of 0011, and create empty ones.

    Raises:
        StoreError: a view, a trigger or a foreign key of the user depends on the tables.
    """
    is_postgresql = connection.dialect.name == "postgresql"
    if not is_postgresql:
        # Otherwise, a connection that does not check foreign keys would not rename the tables in them.
        legacy = connection.exec_driver_sql("PRAGMA legacy_alter_table").scalar_one()
        connection.exec_driver_sql("PRAGMA legacy_alter_table=OFF")
    for table in _TABLES:
        if is_postgresql:
            _free_names(connection, table)
        connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {table}_0011")
    if is_postgresql:
        for sequence in _SEQUENCES:
            connection.exec_driver_sql(f"ALTER SEQUENCE {sequence} RENAME TO {sequence}_0011")
    if users := connection.exec_driver_sql(_USERS[connection.dialect.name]).all():
        kind, name = users[0]
        raise StoreError(f"its {kind} {name} depends on a table that the upgrade replaces: {_STEPS[kind]}")
    for statement in _NEW_TABLES.format(**_TYPES[connection.dialect.name]).split(";")[:-1]:
        connection.exec_driver_sql(statement)
    if is_postgresql:
        _continue_sequences(connection)
        _keep_privileges(connection)
    else:
        connection.exec_driver_sql(f"PRAGMA legacy_alter_table={legacy}")
        _continue_rowids(connection)


def is_moving(connection: Connection) -> bool:
    """Return whether the old tables exist."""
    found = {
        "sqlite": "SELECT 1 FROM sqlite_master WHERE name = 'resonant_events_0011'",
        # Not to_regclass, which may still find a table that another transaction has dropped meanwhile. Another schema in the
        # search path may have a store of its own.
        "postgresql": """SELECT 1 FROM pg_class WHERE relname = 'resonant_events_0011'
            AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('resonant_events'))""",
    }
    return connection.exec_driver_sql(found[connection.dialect.name]).first() is not None


def keep_old_tables(connection: Connection) -> bool:
    """Return whether the old tables exist. If they do, nobody drops them before the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({_LOCK_KEY})")
    else:
        # Takes the write lock, but changes nothing.
        connection.exec_driver_sql("DELETE FROM resonant_events WHERE key IS NULL")
    return is_moving(connection)


def move_known(connection: Connection, ids: Iterable[str]) -> None:
    """Move those of these events that are still in the old tables. Wait for a transaction that is moving one of them."""
    query = _LOCKING + _LOCKED[connection.dialect.name]
    _move(connection, list(_execute(connection, query, ids).scalars()))


def move_next(connection: Connection, *, after: int, most: int) -> Moved:
    """Move the events of the next deliveries; those that another transaction is moving are skipped.

    Args:
        connection: in a transaction that keeps the old tables.
        after: continue after the delivery with this id. With 0, events without deliveries follow the last delivery.
        most: the maximum number of events; fewer are moved if they or their histories are large.
    """
    found = connection.execute(text(_NEXT), {"after": after, "most": most}).all()
    if not found and not after:
        found = connection.execute(text(_WITHOUT_DELIVERIES), {"most": most}).all()
    query = _SIZES + _SKIP_LOCKED[connection.dialect.name]
    sizes = {row.id: row for row in _execute(connection, query, {event_id for _, event_id in found})}
    ids: dict[str, int] = {}
    rows = size = 0
    last = None
    for delivery_id, event_id in found:
        if event_id in sizes and event_id not in ids:
            each = sizes[event_id]
            rows, size = rows + each.deliveries + each.attempts, size + each.bytes
            if ids and (rows > most * _ROWS_OF_EVENT or size > _MOST_BYTES):
                break
            ids[event_id] = each.deliveries
        last = delivery_id
    _move(connection, ids)
    missing = {event_id for _, event_id in found if event_id not in sizes}
    forgotten = _forget_orphans(connection, missing) if missing else 0
    return Moved(len(ids), sum(ids.values()) + forgotten, last)


def preparations(connection: Connection) -> list[str]:
    """Return statements that make the move quicker, each for a transaction of its own."""
    if connection.dialect.name == "postgresql":
        # Otherwise, the planner may read whole tables for each transaction.
        return [f"ANALYZE {table}_0011" for table in _TABLES[1:]]
    # Indexes that only make the removal of rows slower.
    query = "SELECT name FROM sqlite_master WHERE tbl_name = 'resonant_deliveries_0011' AND type = 'index' AND sql <> ''"
    return [f"DROP INDEX IF EXISTS {name}" for name in connection.exec_driver_sql(query).scalars()]


def drop_old_tables(connection: Connection) -> None:
    """Drop the old tables, which are empty, unless another process has dropped them."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
    if is_moving(connection):
        for table in reversed(_TABLES):
            connection.exec_driver_sql(f"DROP TABLE {table}_0011")


def _move(connection: Connection, ids: Collection[str]) -> None:
    if ids:
        for statement in _MOVING:
            _execute(connection, statement, ids)


def _forget_orphans(connection: Connection, event_ids: Iterable[str]) -> int:
    """Remove deliveries without an event, which nobody can send, and count them as purged; return their number."""
    _execute(connection, _FORGET_ATTEMPTS, event_ids)
    endpoints = Counter(_execute(connection, _FORGET, event_ids).scalars())
    for name, purged in endpoints.items():
        connection.execute(text(_COUNT_AS_PURGED), {"name": name, "purged": purged})
    if number := endpoints.total():
        logger.warning("%s deliveries have no event: removed them, and counted them as purged", number)
    return number


def _execute(connection: Connection, statement: str, ids: Iterable[str]) -> CursorResult[Any]:
    whole = statement.format(is_given=_IS_GIVEN[connection.dialect.name])
    return connection.execute(text(whole), {"ids": json.dumps(list(ids))})


def _free_names(connection: Connection, table: str) -> None:
    """Rename what belongs to a table on PostgreSQL, and drop the foreign keys and indexes that would slow the move down."""
    statements = text(f"""
        SELECT format('ALTER TABLE {table} DROP CONSTRAINT %I', conname)
        FROM pg_constraint WHERE conrelid = to_regclass('{table}') AND contype = 'f'
        UNION ALL
        SELECT format(CASE WHEN indisunique THEN 'ALTER INDEX %1$I RENAME TO %2$I' ELSE 'DROP INDEX %1$I' END,
            relname, relname || '_0011')
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = to_regclass('{table}') AND (indisunique OR '{table}' = 'resonant_deliveries')
        UNION ALL
        SELECT 'ALTER TABLE {table} SET (autovacuum_enabled = false, toast.autovacuum_enabled = false)'""")
    _run_each(connection, statements)


def _continue_sequences(connection: Connection) -> None:
    """Let the ids of deliveries and attempts continue above those of the old tables."""
    for sequence in _SEQUENCES:
        connection.exec_driver_sql(f"SELECT setval('{sequence}', last_value, is_called) FROM {sequence}_0011")


def _continue_rowids(connection: Connection) -> None:
    """Let the ids of deliveries and attempts continue above those of the old tables, on SQLite."""
    connection.exec_driver_sql(
        "INSERT INTO sqlite_sequence SELECT 'resonant_deliveries', seq FROM sqlite_sequence "
        "WHERE name = 'resonant_deliveries_0011'"
    )
    # Attempts are numbered from the highest stored id.
    last = (
        "SELECT event_id FROM resonant_deliveries_0011 WHERE id = "
        "(SELECT delivery_id FROM resonant_attempts_0011 ORDER BY id DESC LIMIT 1)"
    )
    _move(connection, connection.exec_driver_sql(last).scalars().all())


def _keep_privileges(connection: Connection) -> None:
    """Give the new tables and sequences on PostgreSQL the owner and the privileges of the old ones."""
    objects = {f"TABLE {table}": f"{table}_0011" for table in _TABLES} | {
        "SEQUENCE resonant_events_key_seq": "resonant_deliveries_id_seq_0011",
        "SEQUENCE resonant_deliveries_id_seq": "resonant_deliveries_id_seq_0011",
        "SEQUENCE resonant_attempts_id_seq": "resonant_attempts_id_seq_0011",
    }
    for new, old in objects.items():
        copy_privileges(connection, new, old)
    # Producers read the version of the schema, which 0.1.0 did not ask of them.
    grant_select(connection, "resonant_schema", "resonant_events_0011")


def copy_privileges(connection: Connection, new: str, old: str) -> None:
    """Give an object on PostgreSQL, such as ``TABLE NAME``, the owner and the privileges of an old one."""
    statements = text(f"""
        SELECT format('ALTER {new} OWNER TO %I', pg_get_userbyid(relowner))
        FROM pg_class WHERE pg_class.oid = to_regclass('{old}') AND relkind = 'r' AND pg_get_userbyid(relowner) <> current_user
        UNION ALL
        SELECT format('GRANT %s ON {new} TO %s%s', privilege_type,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
            CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass('{old}') AND grantee <> relowner""")
    _run_each(connection, statements)


def grant_select(connection: Connection, table: str, like: str) -> None:
    """Let everybody with a privilege on another table read this one, on PostgreSQL."""
    statements = text(f"""
        SELECT DISTINCT 'GRANT SELECT ON {table} TO '
            || CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
        FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = to_regclass('{like}') AND grantee <> relowner""")
    _run_each(connection, statements)


def _run_each(connection: Connection, statements: TextClause) -> None:
    """Run the statements that a query returns."""
    for statement in connection.execute(statements).scalars().all():
        connection.exec_driver_sql(statement)
