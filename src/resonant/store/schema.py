"""The tables. Every name is prefixed, since they may live in a producer's own database (transactional outbox).

Times are seconds since the Unix epoch, durations seconds. ``create_tables`` makes these tables in a new database, ``migrations`` in
an older one.

Transactions lock tables in one order, and rows in key order, so that they cannot deadlock: events, deliveries, causes, endpoints,
claims, gates, routing, subscriptions, audit (endpoint_problems, drains, send_slots and tokens have their own transactions, but the
rescue from killed drains first locks their rows). A purge finds events through deliveries, so it locks both at once and skips
locked rows. The system's own events are inserted after the change that they report: nobody waits for them, since only the
transaction that has locked the changed row uses their ids.

A producer's transaction may stay open for a long time, so it only inserts events, deliveries and acceptances, and updates no
shared row. It reads routing and subscriptions without a lock. Two producers wait for each other only if they store the same event
id. All other transactions insert their counts as a row of the tallies. A fold skips the acceptances and tallies that another fold
has locked; a merge of sketches skips those of another merge.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)
from sqlalchemy.schema import CreateIndex, CreateTable

# SQLite generates keys cheaply only for a column of the type INTEGER.
_Key = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

events = Table(
    "resonant_events",
    metadata,
    Column("key", _Key, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("subject", Text),
    Column("time", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("accepted_at", Double, nullable=False),
    # By which receivers recognise duplicates: see events/webhook_ids.py.
    Column("webhook_id", Text, nullable=False),
    # Null for JSON.
    Column("form", Text),
    Column("datacontenttype", Text),
    Column("dataschema", Text),
    # A JSON object, sorted by name; null for none.
    Column("extensions", Text),
    Column("traceparent", Text),
    Column("tracestate", Text),
    # Last, so that a scan of the other columns does not read a large body's overflow pages.
    Column("body", LargeBinary, nullable=False),
    # The id is first, so that the index finds ids and their prefixes.
    UniqueConstraint("id", "source", name="resonant_events_identity"),
    UniqueConstraint("webhook_id", name="resonant_events_webhook_id"),
    # Otherwise SQLite reuses the keys of purged events, and a long export could read another event.
    sqlite_autoincrement=True,
)

deliveries = Table(
    "resonant_deliveries",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("event_key", _Key, ForeignKey("resonant_events.key"), nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("accepted_at", Double, nullable=False),
    # Requested by the producer; null for the default of the endpoint or the settings.
    Column("policy", Text),
    Column("max_attempts", Integer),
    # The current round.
    Column("round", Integer, nullable=False, server_default="1"),
    Column("round_started_at", Double, nullable=False),
    Column("round_attempts", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    # Summary of the history.
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("first_attempt_at", Double),
    Column("last_delay", Double),
    Column("next_attempt_at", Double),
    # The end of the delivery's own backoff, if a gate released it earlier. Failures before this time are not charged.
    Column("backoff_until", Double),
    Column("finished_at", Double),
    # When a worker may claim it: its due time, the end of its lease, or null when it is final.
    Column("available_at", Double),
    Column("lease_owner", Text),
    Column("lease_token", Integer, nullable=False, server_default="0"),
    Column("sending", Boolean, nullable=False, server_default="0"),
    # The last failure, and why the delivery was given up.
    Column("reason", Text),
    Column("category", Text),
    Column("code", Text),
    Column("error_type", Text),
    Column("error", Text),
    Column("status_code", Integer),
    # References resonant_causes, for dead letters. Not a foreign key, whose check would cost every purge a lookup.
    Column("cause_id", _Key),
    # The other endpoint that a dead letter was replayed to.
    Column("replayed_to", Text),
    UniqueConstraint("event_key", "endpoint", name="resonant_deliveries_identity"),
    # Otherwise SQLite reuses the ids of purged deliveries, and an old worker's token could match.
    sqlite_autoincrement=True,
)
# For an order by the id with a limit: for the id itself, SQLite would walk the whole table instead of using a partial index.
id_without_index = deliveries.c.id + literal_column("0", Integer)
# Partial on PostgreSQL too: see `create_tables`.
Index(
    "resonant_delivery_available",
    deliveries.c.endpoint,
    deliveries.c.available_at,
    sqlite_where=deliveries.c.available_at.is_not(None),
)
# For claims by type, while an endpoint is paced or some of its types fail.
Index(
    "resonant_delivery_types",
    deliveries.c.endpoint,
    deliveries.c.event_type,
    deliveries.c.available_at,
    sqlite_where=deliveries.c.available_at.is_not(None),
)
Index(
    "resonant_delivery_leased",
    deliveries.c.lease_owner,
    deliveries.c.available_at,
    sqlite_where=deliveries.c.lease_owner.is_not(None),
)
# Covers a count by status. The status is not first: otherwise, for a condition on the status, SQLite would choose this index
# instead of a partial one, and sort.
Index("resonant_delivery_status", deliveries.c.category, deliveries.c.status, deliveries.c.endpoint)
# A literal: a generic plan for a bound value cannot use a partial index.
is_dead_letter = deliveries.c.status == literal_column("'dead_letter'", Text)
is_delivered = deliveries.c.status == literal_column("'delivered'", Text)
Index(
    "resonant_delivery_delivered",
    deliveries.c.finished_at,
    deliveries.c.id,
    sqlite_where=is_delivered,
)
# All reads of the dead-letter queue use these two indexes: one for the whole queue, one by cause, both in the order in which
# deliveries were given up. Filters search the few causes, not the many dead letters.
Index(
    "resonant_delivery_dead",
    deliveries.c.finished_at,
    deliveries.c.id,
    deliveries.c.cause_id,
    sqlite_where=is_dead_letter,
)
Index(
    "resonant_delivery_cause",
    deliveries.c.cause_id,
    deliveries.c.finished_at,
    deliveries.c.id,
    sqlite_where=is_dead_letter,
)

# The causes of dead letters, each stored once: see store/queue/causes.py. Missing values are empty strings.
causes = Table(
    "resonant_causes",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("fingerprint", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("error_type", Text, nullable=False),
    Column("error", Text, nullable=False),
    # Whether the error represents many errors that differ in their variable parts.
    Column("varies", Boolean, nullable=False),
)
Index("resonant_causes_endpoint", causes.c.endpoint, causes.c.code)

attempts = Table(
    "resonant_attempts",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("delivery_id", _Key, ForeignKey("resonant_deliveries.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("duration", Double, nullable=False),
    Column("result", Text, nullable=False),
    Column("late", Boolean, nullable=False, server_default="0"),
    Column("early", Boolean, nullable=False, server_default="0"),
    Column("status_code", Integer),
    Column("category", Text),
    Column("code", Text),
    Column("blame", Text),
    Column("maybe_processed", Boolean),
    Column("error_type", Text),
    Column("error", Text),
    Column("excerpt", Text),
    Column("warning", Text),
    Column("retry_after", Double),
    Column("decision", Text),
    Column("delay", Double),
    Column("next_attempt_at", Double),
    Column("owner", Text),
    Column("task_run_id", Text),
)
Index("resonant_attempt_delivery", attempts.c.delivery_id, attempts.c.number)

# Accepted events that are not yet in the ledger: see store/counts/acceptances.py.
acceptances = Table(
    "resonant_acceptances",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("endpoint", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
)

# One row per endpoint: the two ledgers of the balance. `accepted` excludes the rows of
# resonant_acceptances; the first fold inserts an endpoint's row.
ledgers = Table(
    "resonant_endpoints",
    metadata,
    Column("name", Text, primary_key=True),
    Column("accepted", BigInteger, nullable=False, server_default="0"),
    Column("purged", BigInteger, nullable=False, server_default="0"),
)

# The time of the last claim for each endpoint. Not a column of resonant_endpoints, so that claims do not wait for a purge
# or a fold that has locked the row. The first claim inserts the row.
claims = Table(
    "resonant_claims",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("last_claim_at", Double),
)

# One row per endpoint whose gate has left the state normal, until it has been normal for an hour: see store/shared/gates.py.
gates = Table(
    "resonant_gates",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("since", Double, nullable=False),
    Column("reason", Text),
    Column("failing_since", Double),
    Column("probe_at", Double),
    Column("probed_type", Text),
    Column("not_before", Double),
    Column("pilot", Text),
    Column("pilot_until", Double),
    Column("pace", Double),
    Column("paused_by", Text),
    # A JSON array of the types that fail while others work; null without any.
    Column("failing", Text),
)

# The time until which sends to a rate-limited endpoint are reserved: see store/shared/send_slots.py.
send_slots = Table(
    "resonant_send_slots",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("reserved_until", Double, nullable=False),
)

# Endpoints that the last run could not open, with the errors, which contain no secret: see store/views/endpoint_problems.py.
# Not columns of resonant_endpoints, so that runs do not wait for a purge or a fold that has locked the row.
endpoint_problems = Table(
    "resonant_endpoint_problems",
    metadata,
    Column("endpoint", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("since", Double, nullable=False),
)

# The live runs, in the order in which they began: see store/shared/drains.py.
drains = Table(
    "resonant_drains",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("owner", Text, nullable=False),
    # The only endpoint that it sends to; null for all; empty if the run is not a drain.
    Column("endpoint", Text),
    Column("seen_at", Double, nullable=False),
    # See store/shared/processes.py; null if it is unknown.
    Column("process", Text),
    # How far the store's clock is ahead of the process's, in seconds.
    Column("clock_ahead", Double),
    # A newer drain must never get the id of a removed one.
    sqlite_autoincrement=True,
)

# Counts of committed transactions that are not yet in the sketches: see store/counts/counters.py.
tallies = Table(
    "resonant_tallies",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("minute", BigInteger, nullable=False),
    Column("entries", Text, nullable=False),
    Column("seconds", LargeBinary, nullable=False),
)

# Counts and durations: for statistics and alerts per minute, later merged into hours and days; for Prometheus since the store was
# created. See store/counts/sketches.py. Rows are never updated: a merge deletes several and inserts one.
sketches = Table(
    "resonant_sketches",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("minute", BigInteger, nullable=False),
    Column("entries", Text, nullable=False),
    Column("buckets", LargeBinary, nullable=False),
)
Index("resonant_sketches_minute", sketches.c.minute)

# Raised alerts: see metrics/alerts.py. Endpoint "" means all endpoints.
alerts = Table(
    "resonant_alerts",
    metadata,
    Column("condition", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    # Null once the alert has recovered.
    Column("raised_at", Double),
)

# Which events an endpoint gets: see store/shared/subscriptions.py.
subscriptions = Table(
    "resonant_subscriptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    # JSON arrays.
    Column("types", Text, nullable=False),
    Column("source", Text),
    Column("filters", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

# The version of all subscriptions, in one row; no row before the first subscription.
routing = Table(
    "resonant_routing",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
)

# The tokens of producers over HTTP. What is null is not restricted.
tokens = Table(
    "resonant_tokens",
    metadata,
    Column("name", Text, primary_key=True),
    # SHA-256, in hexadecimal digits.
    Column("digest", Text, nullable=False, unique=True),
    # Globs, and the name of an endpoint.
    Column("source", Text),
    Column("type", Text),
    Column("endpoint", Text),
    Column("rate", Double),
    Column("can_read", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double),
    Column("revoked_at", Double),
)

# The flows whose failed runs an endpoint gets: see store/shared/run_watches.py.
run_watches = Table(
    "resonant_run_watches",
    metadata,
    Column("endpoint", Text, primary_key=True),
    # A glob and a tag; empty for all.
    Column("flow", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    # The Prefect server that it belongs to; empty until one reports, if an older Resonant stored the watch.
    Column("server", Text, primary_key=True),
    # All runs that failed before this time are stored.
    Column("watermark", Double, nullable=False),
    Column("created_at", Double, nullable=False),
)

# Causes of dead letters that an operator has acknowledged: see store/shared/acknowledgements.py.
acknowledged_causes = Table(
    "resonant_acknowledged_causes",
    metadata,
    Column("cause", Text, primary_key=True),
    Column("acknowledged_at", Double, nullable=False),
    Column("acknowledged_by", Text, nullable=False),
    Column("note", Text),
)

# Events for Prefect that its event feed has not yet shown: see store/shared/announcements.py.
announcements = Table(
    "resonant_announcements",
    metadata,
    Column("id", Text, primary_key=True),
    Column("event", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("sent_at", Double),
)

audit = Table(
    "resonant_audit",
    metadata,
    Column("id", _Key, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("selection", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    # Null while the operation runs; stays null if it was killed.
    Column("ended_at", Double),
)


def create_tables(connection: Connection) -> None:
    """Create all tables in a database that has none of them."""
    if connection.dialect.name == "postgresql":
        # With `postgresql_where` above, every command would load SQLAlchemy's PostgreSQL dialect, which takes 20 ms.
        for index in (index for table in metadata.tables.values() for index in table.indexes):
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table))
        # In one order, since SQLite takes the newest of equally good indexes.
        for index in sorted(table.indexes, key=lambda each: str(each.name), reverse=True):
            connection.execute(CreateIndex(index))
    if connection.dialect.name == "postgresql":
        # A delivery is updated three times. On the same page, an update writes less to the log, and often no index entry.
        connection.exec_driver_sql(f"ALTER TABLE {deliveries.name} SET (fillfactor = 50)")
