CREATE TABLE resonant_alerts (
    condition TEXT NOT NULL, endpoint TEXT NOT NULL, raised_at DOUBLE PRECISION, unannounced TEXT,
    PRIMARY KEY (condition, endpoint)
);
CREATE TABLE resonant_audit (
    id BIGSERIAL NOT NULL PRIMARY KEY, at DOUBLE PRECISION NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, selection TEXT NOT NULL,
    count BIGINT NOT NULL, ended_at DOUBLE PRECISION
);
CREATE TABLE resonant_causes (
    id BIGSERIAL NOT NULL PRIMARY KEY, digest TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL,
    endpoint TEXT NOT NULL, event_type TEXT NOT NULL, reason TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL,
    error_type TEXT NOT NULL, error TEXT NOT NULL, varies BOOLEAN NOT NULL
);
CREATE INDEX resonant_causes_endpoint ON resonant_causes (endpoint, code);
CREATE TABLE resonant_endpoints (
    name TEXT NOT NULL PRIMARY KEY, accepted BIGINT DEFAULT '0' NOT NULL, purged BIGINT DEFAULT '0' NOT NULL
);
CREATE TABLE resonant_claims (endpoint TEXT NOT NULL PRIMARY KEY, last_claim_at DOUBLE PRECISION);
CREATE TABLE resonant_events (
    id TEXT NOT NULL PRIMARY KEY, type TEXT NOT NULL, source TEXT NOT NULL, subject TEXT, time TEXT NOT NULL,
    digest TEXT NOT NULL, accepted_at DOUBLE PRECISION NOT NULL, body BYTEA NOT NULL
);
CREATE TABLE resonant_rollups (
    measure TEXT NOT NULL, minute BIGINT NOT NULL, endpoint TEXT NOT NULL, event_type TEXT NOT NULL,
    result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL, le DOUBLE PRECISION NOT NULL,
    count BIGINT NOT NULL, total DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (measure, minute, endpoint, event_type, result, category, code, le)
);
CREATE TABLE resonant_rollup_totals (
    measure TEXT NOT NULL, endpoint TEXT NOT NULL, result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL,
    le DOUBLE PRECISION NOT NULL, count BIGINT NOT NULL, total DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (measure, endpoint, result, category, code, le)
);
CREATE TABLE resonant_rollup_history (
    minute BIGINT NOT NULL, measure TEXT NOT NULL, endpoint TEXT NOT NULL, event_type TEXT NOT NULL,
    result TEXT NOT NULL, category TEXT NOT NULL, code TEXT NOT NULL, count BIGINT NOT NULL, total DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (minute, measure, endpoint, event_type, result, category, code)
);
CREATE TABLE resonant_deliveries (
    id BIGSERIAL NOT NULL PRIMARY KEY, event_id TEXT NOT NULL REFERENCES resonant_events (id), endpoint TEXT NOT NULL,
    event_type TEXT NOT NULL, status TEXT NOT NULL, accepted_at DOUBLE PRECISION NOT NULL, policy TEXT, max_attempts INTEGER,
    round INTEGER DEFAULT '1' NOT NULL, round_started_at DOUBLE PRECISION NOT NULL, round_attempts INTEGER DEFAULT '0' NOT NULL,
    crashes INTEGER DEFAULT '0' NOT NULL, attempts INTEGER DEFAULT '0' NOT NULL, first_attempt_at DOUBLE PRECISION,
    last_delay DOUBLE PRECISION, next_attempt_at DOUBLE PRECISION, finished_at DOUBLE PRECISION, available_at DOUBLE PRECISION, lease_owner TEXT,
    lease_token INTEGER DEFAULT '0' NOT NULL, sending BOOLEAN DEFAULT '0' NOT NULL, reason TEXT, category TEXT,
    code TEXT, error_type TEXT, error TEXT, status_code INTEGER, cause_id BIGINT, backoff_until DOUBLE PRECISION,
    CONSTRAINT resonant_deliveries_identity UNIQUE (event_id, endpoint)
);
CREATE INDEX resonant_deliveries_available ON resonant_deliveries (endpoint, available_at) WHERE available_at IS NOT NULL;
CREATE INDEX resonant_deliveries_dead ON resonant_deliveries (finished_at, id, cause_id) WHERE status = 'dead_letter';
CREATE INDEX resonant_deliveries_leased ON resonant_deliveries (lease_owner, available_at) WHERE lease_owner IS NOT NULL;
CREATE INDEX resonant_deliveries_status ON resonant_deliveries (category, status, endpoint);
CREATE INDEX resonant_deliveries_delivered ON resonant_deliveries (finished_at, id) WHERE status = 'delivered';
CREATE INDEX resonant_deliveries_cause ON resonant_deliveries (cause_id, finished_at, id) WHERE status = 'dead_letter';
CREATE TABLE resonant_attempts (
    id BIGSERIAL NOT NULL PRIMARY KEY, delivery_id BIGINT NOT NULL, number INTEGER NOT NULL, round INTEGER NOT NULL,
    started_at DOUBLE PRECISION NOT NULL, duration DOUBLE PRECISION NOT NULL, result TEXT NOT NULL, late BOOLEAN DEFAULT '0' NOT NULL,
    status_code INTEGER, category TEXT, code TEXT, blame TEXT, maybe_processed BOOLEAN, error_type TEXT, error TEXT,
    excerpt TEXT, warning TEXT, retry_after DOUBLE PRECISION, decision TEXT, delay DOUBLE PRECISION, next_attempt_at DOUBLE PRECISION, owner TEXT,
    task_run_id TEXT, early BOOLEAN DEFAULT '0' NOT NULL,
    FOREIGN KEY (delivery_id) REFERENCES resonant_deliveries (id) ON DELETE CASCADE
);
CREATE INDEX resonant_attempts_delivery ON resonant_attempts (delivery_id, number);
CREATE TABLE resonant_endpoint_problems (
    endpoint TEXT NOT NULL PRIMARY KEY, reason TEXT NOT NULL, since DOUBLE PRECISION NOT NULL
);
CREATE TABLE resonant_signers (
    owner TEXT NOT NULL, endpoint TEXT NOT NULL, rotation DOUBLE PRECISION, seen_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (owner, endpoint)
);
CREATE TABLE resonant_acceptances (
    id BIGSERIAL NOT NULL PRIMARY KEY, endpoint TEXT NOT NULL, event_type TEXT NOT NULL, accepted_at DOUBLE PRECISION NOT NULL, count BIGINT NOT NULL,
    counted BOOLEAN NOT NULL
);
CREATE TABLE resonant_gates (
    endpoint TEXT NOT NULL PRIMARY KEY, state TEXT NOT NULL, epoch BIGINT NOT NULL, since DOUBLE PRECISION NOT NULL, reason TEXT,
    failing_since DOUBLE PRECISION, probe_at DOUBLE PRECISION, probed_type TEXT, not_before DOUBLE PRECISION, pilot TEXT, pilot_until DOUBLE PRECISION,
    paced_at DOUBLE PRECISION, pace DOUBLE PRECISION, helpless_until DOUBLE PRECISION, paused_by TEXT
);
CREATE TABLE resonant_send_slots (endpoint TEXT NOT NULL PRIMARY KEY, reserved_until DOUBLE PRECISION NOT NULL);
CREATE TABLE resonant_drains (
    id BIGSERIAL NOT NULL PRIMARY KEY, owner TEXT NOT NULL, endpoint TEXT, seen_at DOUBLE PRECISION NOT NULL
);
CREATE TABLE resonant_sketches (
    id BIGSERIAL NOT NULL PRIMARY KEY, minute BIGINT NOT NULL, entries TEXT NOT NULL, buckets BYTEA NOT NULL
);
CREATE INDEX resonant_sketches_minute ON resonant_sketches (minute);
CREATE TABLE resonant_tallies (
    id BIGSERIAL NOT NULL PRIMARY KEY, minute BIGINT NOT NULL, entries TEXT NOT NULL, seconds BYTEA NOT NULL
);
CREATE TABLE resonant_schema (
    version_num VARCHAR(32) NOT NULL, CONSTRAINT resonant_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO resonant_schema VALUES ('0008');
