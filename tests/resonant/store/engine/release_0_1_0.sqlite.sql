CREATE TABLE resonant_alerts (
    condition TEXT NOT NULL, endpoint TEXT NOT NULL, raised_at DOUBLE, unannounced TEXT,
    PRIMARY KEY (condition, endpoint)
);
CREATE TABLE resonant_audit (
    id INTEGER NOT NULL PRIMARY KEY, at DOUBLE NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, selection TEXT NOT NULL,
    count BIGINT NOT NULL, ended_at DOUBLE
);
CREATE TABLE resonant_causes (
    id INTEGER NOT NULL PRIMARY KEY, digest TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL,
    endpoint TEXT NOT NULL, event_type TEXT NOT NULL, reason TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL,
    error_type TEXT NOT NULL, error TEXT NOT NULL, varies BOOLEAN NOT NULL
);
CREATE INDEX resonant_causes_endpoint ON resonant_causes (endpoint, code);
CREATE TABLE resonant_endpoints (
    name TEXT NOT NULL PRIMARY KEY, accepted BIGINT DEFAULT '0' NOT NULL, purged BIGINT DEFAULT '0' NOT NULL
);
CREATE TABLE resonant_claims (endpoint TEXT NOT NULL PRIMARY KEY, last_claim_at DOUBLE);
CREATE TABLE resonant_events (
    id TEXT NOT NULL PRIMARY KEY, type TEXT NOT NULL, source TEXT NOT NULL, subject TEXT, time TEXT NOT NULL,
    digest TEXT NOT NULL, accepted_at DOUBLE NOT NULL, body BLOB NOT NULL
);
CREATE TABLE resonant_rollups (
    measure TEXT NOT NULL, minute BIGINT NOT NULL, endpoint TEXT NOT NULL, event_type TEXT NOT NULL,
    result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL, le DOUBLE NOT NULL,
    count BIGINT NOT NULL, total DOUBLE NOT NULL,
    PRIMARY KEY (measure, minute, endpoint, event_type, result, category, code, le)
) WITHOUT ROWID;
CREATE TABLE resonant_rollup_totals (
    measure TEXT NOT NULL, endpoint TEXT NOT NULL, result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL,
    le DOUBLE NOT NULL, count BIGINT NOT NULL, total DOUBLE NOT NULL,
    PRIMARY KEY (measure, endpoint, result, category, code, le)
) WITHOUT ROWID;
CREATE TABLE resonant_rollup_history (
    minute BIGINT NOT NULL, measure TEXT NOT NULL, endpoint TEXT NOT NULL, event_type TEXT NOT NULL,
    result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL, count BIGINT NOT NULL, total DOUBLE NOT NULL,
    PRIMARY KEY (minute, measure, endpoint, event_type, result, category, code)
) WITHOUT ROWID;
CREATE TABLE resonant_deliveries (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL REFERENCES resonant_events (id), endpoint TEXT NOT NULL,
    event_type TEXT NOT NULL, status TEXT NOT NULL, accepted_at DOUBLE NOT NULL, policy TEXT, max_attempts INTEGER,
    round INTEGER DEFAULT '1' NOT NULL, round_started_at DOUBLE NOT NULL, round_attempts INTEGER DEFAULT '0' NOT NULL,
    crashes INTEGER DEFAULT '0' NOT NULL, attempts INTEGER DEFAULT '0' NOT NULL, first_attempt_at DOUBLE,
    last_delay DOUBLE, next_attempt_at DOUBLE, finished_at DOUBLE, available_at DOUBLE, lease_owner TEXT,
    lease_token INTEGER DEFAULT '0' NOT NULL, sending BOOLEAN DEFAULT '0' NOT NULL, reason TEXT, category TEXT,
    code TEXT, error_type TEXT, error TEXT, status_code INTEGER, cause_id INTEGER, backoff_until DOUBLE,
    CONSTRAINT resonant_deliveries_identity UNIQUE (event_id, endpoint)
);
CREATE INDEX resonant_deliveries_available ON resonant_deliveries (endpoint, available_at) WHERE available_at IS NOT NULL;
CREATE INDEX resonant_deliveries_dead ON resonant_deliveries (finished_at, id, cause_id) WHERE status = 'dead_letter';
CREATE INDEX resonant_deliveries_leased ON resonant_deliveries (lease_owner, available_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX resonant_deliveries_status ON resonant_deliveries (category, status, endpoint);
CREATE INDEX resonant_deliveries_delivered ON resonant_deliveries (finished_at, id) WHERE status = 'delivered';
CREATE INDEX resonant_deliveries_cause ON resonant_deliveries (cause_id, finished_at, id) WHERE status = 'dead_letter';
CREATE TABLE resonant_attempts (
    id INTEGER NOT NULL PRIMARY KEY, delivery_id INTEGER NOT NULL, number INTEGER NOT NULL, round INTEGER NOT NULL,
    started_at DOUBLE NOT NULL, duration DOUBLE NOT NULL, result TEXT NOT NULL, late BOOLEAN DEFAULT '0' NOT NULL,
    status_code INTEGER, category TEXT, code TEXT, blame TEXT, maybe_processed BOOLEAN, error_type TEXT, error TEXT,
    excerpt TEXT, warning TEXT, retry_after DOUBLE, decision TEXT, delay DOUBLE, next_attempt_at DOUBLE, owner TEXT,
    task_run_id TEXT, early BOOLEAN DEFAULT '0' NOT NULL,
    FOREIGN KEY (delivery_id) REFERENCES resonant_deliveries (id) ON DELETE CASCADE
);
CREATE INDEX resonant_attempts_delivery ON resonant_attempts (delivery_id, number);
CREATE TABLE resonant_endpoint_problems (
    endpoint TEXT NOT NULL PRIMARY KEY, reason TEXT NOT NULL, since DOUBLE NOT NULL
);
CREATE TABLE resonant_signers (
    owner TEXT NOT NULL, endpoint TEXT NOT NULL, rotation DOUBLE, seen_at DOUBLE NOT NULL,
    PRIMARY KEY (owner, endpoint)
);
CREATE TABLE resonant_acceptances (
    id INTEGER NOT NULL PRIMARY KEY, endpoint TEXT NOT NULL, event_type TEXT NOT NULL, accepted_at DOUBLE NOT NULL, count BIGINT NOT NULL,
    counted BOOLEAN NOT NULL
);
CREATE TABLE resonant_gates (
    endpoint TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, epoch BIGINT NOT NULL, since DOUBLE NOT NULL, reason TEXT,
    failing_since DOUBLE, probe_at DOUBLE, probed_type TEXT, not_before DOUBLE, pilot TEXT, pilot_until DOUBLE,
    paced_at DOUBLE, pace DOUBLE, helpless_until DOUBLE, paused_by TEXT
);
CREATE TABLE resonant_send_slots (endpoint TEXT NOT NULL PRIMARY KEY, reserved_until DOUBLE NOT NULL);
CREATE TABLE resonant_drains (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, endpoint TEXT, seen_at DOUBLE NOT NULL
);
CREATE TABLE resonant_sketches (
    id INTEGER NOT NULL PRIMARY KEY, minute BIGINT NOT NULL, entries TEXT NOT NULL, buckets BLOB NOT NULL
);
CREATE INDEX resonant_sketches_minute ON resonant_sketches (minute);
CREATE TABLE resonant_tallies (
    id INTEGER NOT NULL PRIMARY KEY, minute BIGINT NOT NULL, entries TEXT NOT NULL, seconds BLOB NOT NULL
);
CREATE TABLE resonant_schema (
    version_num VARCHAR(32) NOT NULL, CONSTRAINT resonant_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO resonant_schema VALUES ('0008');
