"""The tables of Resonant 0.1.0, in the SQL of both databases."""

from alembic import op

revision = "0008"
down_revision = None

_TYPES = {
    "sqlite": {
        "key": "INTEGER NOT NULL PRIMARY KEY",
        "key_never_used_again": "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT",
        "reference": "INTEGER",
        "real": "DOUBLE",
        "bytes": "BLOB",
        "clustered": "WITHOUT ROWID",
    },
    "postgresql": {
        "key": "BIGSERIAL NOT NULL PRIMARY KEY",
        "key_never_used_again": "BIGSERIAL NOT NULL PRIMARY KEY",
        "reference": "BIGINT",
        "real": "DOUBLE PRECISION",
        "bytes": "BYTEA",
        "clustered": "",
    },
}

_TABLES = """
CREATE TABLE resonant_alerts (
    condition TEXT NOT NULL, endpoint TEXT NOT NULL, raised_at {real}, unannounced TEXT,
    PRIMARY KEY (condition, endpoint)
);
CREATE TABLE resonant_audit (
    id {key}, at {real} NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, selection TEXT NOT NULL,
    count BIGINT NOT NULL, ended_at {real}
);
CREATE TABLE resonant_causes (
    id {key}, digest TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL,
    endpoint TEXT NOT NULL, event_type TEXT NOT NULL, reason TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL,
    error_type TEXT NOT NULL, error TEXT NOT NULL, varies BOOLEAN NOT NULL
);
CREATE INDEX resonant_causes_endpoint ON resonant_causes (endpoint, code);
CREATE TABLE resonant_endpoints (
    name TEXT NOT NULL PRIMARY KEY, accepted BIGINT DEFAULT '0' NOT NULL, purged BIGINT DEFAULT '0' NOT NULL
);
CREATE TABLE resonant_claims (endpoint TEXT NOT NULL PRIMARY KEY, last_claim_at {real});
CREATE TABLE resonant_events (
    id TEXT NOT NULL PRIMARY KEY, type TEXT NOT NULL, source TEXT NOT NULL, subject TEXT, time TEXT NOT NULL,
    digest TEXT NOT NULL, accepted_at {real} NOT NULL, body {bytes} NOT NULL
);
CREATE TABLE resonant_rollups (
    measure TEXT NOT NULL, minute BIGINT NOT NULL, endpoint TEXT NOT NULL, event_type TEXT NOT NULL,
    result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL, le {real} NOT NULL,
    count BIGINT NOT NULL, total {real} NOT NULL,
    PRIMARY KEY (measure, minute, endpoint, event_type, result, category, code, le)
) {clustered};
CREATE TABLE resonant_rollup_totals (
    measure TEXT NOT NULL, endpoint TEXT NOT NULL, result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL,
    le {real} NOT NULL, count BIGINT NOT NULL, total {real} NOT NULL,
    PRIMARY KEY (measure, endpoint, result, category, code, le)
) {clustered};
CREATE TABLE resonant_rollup_history (
    minute BIGINT NOT NULL, measure TEXT NOT NULL, endpoint TEXT NOT NULL, event_type TEXT NOT NULL,
    result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL, count BIGINT NOT NULL, total {real} NOT NULL,
    PRIMARY KEY (minute, measure, endpoint, event_type, result, category, code)
) {clustered};
CREATE TABLE resonant_deliveries (
    id {key_never_used_again}, event_id TEXT NOT NULL REFERENCES resonant_events (id), endpoint TEXT NOT NULL,
    event_type TEXT NOT NULL, status TEXT NOT NULL, accepted_at {real} NOT NULL, policy TEXT, max_attempts INTEGER,
    round INTEGER DEFAULT '1' NOT NULL, round_started_at {real} NOT NULL, round_attempts INTEGER DEFAULT '0' NOT NULL,
    crashes INTEGER DEFAULT '0' NOT NULL, attempts INTEGER DEFAULT '0' NOT NULL, first_attempt_at {real},
    last_delay {real}, next_attempt_at {real}, finished_at {real}, available_at {real}, lease_owner TEXT,
    lease_token INTEGER DEFAULT '0' NOT NULL, sending BOOLEAN DEFAULT '0' NOT NULL, reason TEXT, category TEXT,
    code TEXT, error_type TEXT, error TEXT, status_code INTEGER, cause_id {reference}, backoff_until {real},
    CONSTRAINT resonant_deliveries_identity UNIQUE (event_id, endpoint)
);
CREATE INDEX resonant_deliveries_available ON resonant_deliveries (endpoint, available_at) WHERE available_at IS NOT NULL;
CREATE INDEX resonant_deliveries_dead ON resonant_deliveries (finished_at, id, cause_id) WHERE status = 'dead_letter';
CREATE INDEX resonant_deliveries_leased ON resonant_deliveries (lease_owner, available_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX resonant_deliveries_status ON resonant_deliveries (category, status, endpoint);
CREATE INDEX resonant_deliveries_delivered ON resonant_deliveries (finished_at, id) WHERE status = 'delivered';
CREATE INDEX resonant_deliveries_cause ON resonant_deliveries (cause_id, finished_at, id) WHERE status = 'dead_letter';
CREATE TABLE resonant_attempts (
    id {key}, delivery_id {reference} NOT NULL, number INTEGER NOT NULL, round INTEGER NOT NULL,
    started_at {real} NOT NULL, duration {real} NOT NULL, result TEXT NOT NULL, late BOOLEAN DEFAULT '0' NOT NULL,
    status_code INTEGER, category TEXT, code TEXT, blame TEXT, maybe_processed BOOLEAN, error_type TEXT, error TEXT,
    excerpt TEXT, warning TEXT, retry_after {real}, decision TEXT, delay {real}, next_attempt_at {real}, owner TEXT,
    task_run_id TEXT, early BOOLEAN DEFAULT '0' NOT NULL,
    FOREIGN KEY (delivery_id) REFERENCES resonant_deliveries (id) ON DELETE CASCADE
);
CREATE INDEX resonant_attempts_delivery ON resonant_attempts (delivery_id, number);
CREATE TABLE resonant_endpoint_problems (
    endpoint TEXT NOT NULL PRIMARY KEY, reason TEXT NOT NULL, since {real} NOT NULL
);
CREATE TABLE resonant_signers (
    owner TEXT NOT NULL, endpoint TEXT NOT NULL, rotation {real}, seen_at {real} NOT NULL,
    PRIMARY KEY (owner, endpoint)
);
CREATE TABLE resonant_acceptances (
    id {key}, endpoint TEXT NOT NULL, event_type TEXT NOT NULL, accepted_at {real} NOT NULL, count BIGINT NOT NULL,
    counted BOOLEAN NOT NULL
);
CREATE TABLE resonant_gates (
    endpoint TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, epoch BIGINT NOT NULL, since {real} NOT NULL, reason TEXT,
    failing_since {real}, probe_at {real}, probed_type TEXT, not_before {real}, pilot TEXT, pilot_until {real},
    paced_at {real}, pace {real}, helpless_until {real}, paused_by TEXT
);
CREATE TABLE resonant_send_slots (endpoint TEXT NOT NULL PRIMARY KEY, reserved_until {real} NOT NULL);
CREATE TABLE resonant_drains (
    id {key_never_used_again}, owner TEXT NOT NULL, endpoint TEXT, seen_at {real} NOT NULL
);
CREATE TABLE resonant_sketches (
    id {key}, minute BIGINT NOT NULL, entries TEXT NOT NULL, buckets {bytes} NOT NULL
);
CREATE INDEX resonant_sketches_minute ON resonant_sketches (minute);
CREATE TABLE resonant_tallies (
    id {key}, minute BIGINT NOT NULL, entries TEXT NOT NULL, seconds {bytes} NOT NULL
);
"""


def upgrade() -> None:
    tables = _TABLES.format_map(_TYPES[op.get_bind().dialect.name])
    for statement in tables.split(";")[:-1]:
        op.execute(statement)
