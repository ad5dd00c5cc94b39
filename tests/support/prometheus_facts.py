"""The expected samples of Prometheus, read from the store."""

from __future__ import annotations

import math
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from resonant.store.counts.counters import BUCKETS
from support.stores import fold

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400
HISTOGRAMS = (
    "resonant_delivery_attempt_duration_seconds",
    "resonant_delivery_end_to_end_duration_seconds",
    "resonant_delivery_retry_delay_seconds",
)
Samples = dict[frozenset[tuple[str, Any]], float]


def facts(database: Path) -> dict[str, Samples]:
    """Compute every metric from the tables, independently of the exposition; zeros are omitted."""
    fold(database)
    with closing(sqlite3.connect(database)) as connection:

        def read(labels: str, value: str, rest: str) -> Samples:
            names = labels.split(", ")
            rows = connection.execute(f"SELECT {value}, {labels} FROM {rest} GROUP BY {labels}")
            return {
                frozenset(zip(names, row[1:], strict=True)): row[0] for row in rows if row[0] not in (0, None)
            }

        def count(labels: str, condition: str) -> Samples:
            return read(labels, "SUM(count)", f"resonant_rollups WHERE {condition}")

        found = {
            "resonant_events_accepted_total": read(
                "endpoint",
                "SUM(accepted)",
                "(SELECT name AS endpoint, accepted FROM resonant_endpoints "
                "UNION ALL SELECT endpoint, count FROM resonant_acceptances)",
            ),
            "resonant_delivery_outcomes_total": {
                frozenset({("endpoint", endpoint), ("outcome", result)}): number
                for endpoint, result, number in connection.execute(
                    "SELECT endpoint, result, SUM(count) FROM resonant_rollups WHERE measure = 'delivery' "
                    "GROUP BY endpoint, result"
                )
            },
            # Prometheus treats an empty label as absent.
            "resonant_delivery_attempts_total": {
                frozenset(pair for pair in key if pair[1]): number
                for key, number in count("endpoint, result, category, code", "measure = 'attempt'").items()
            },
            "resonant_dead_letter_replays_total": count("endpoint", "measure = 'replay'"),
            "resonant_dead_letter_purges_total": count(
                "endpoint", "measure = 'purge' AND result = 'dead_letter'"
            ),
            "resonant_deliveries": read("endpoint, status", "COUNT(*)", "resonant_deliveries"),
            "resonant_dead_letters": read(
                "endpoint, category, reason", "COUNT(*)", "resonant_deliveries WHERE status = 'dead_letter'"
            ),
            "resonant_oldest_due_timestamp_seconds": read(
                "endpoint", "MIN(next_attempt_at)", "resonant_deliveries WHERE finished_at IS NULL"
            ),
            "resonant_last_claim_timestamp_seconds": read(
                "endpoint", "MAX(last_claim_at)", "resonant_claims"
            ),
            "resonant_dead_letter_oldest_timestamp_seconds": read(
                "endpoint", "MIN(finished_at)", "resonant_deliveries WHERE status = 'dead_letter'"
            ),
            "resonant_endpoint_state": read("endpoint, state", "1", "resonant_gates"),
            "resonant_endpoint_pace_per_second": read(
                "endpoint", "pace", "resonant_gates WHERE state = 'paced'"
            ),
            "resonant_endpoint_gone_timestamp_seconds": read(
                "endpoint", "since", "resonant_gates WHERE state = 'paused' AND paused_by IS NULL"
            ),
            "resonant_deliveries_held": read(
                "endpoint",
                "COUNT(*)",
                "resonant_deliveries JOIN resonant_gates USING (endpoint) WHERE finished_at IS NULL "
                f"AND lease_owner IS NULL AND next_attempt_at <= {time.time()} AND state <> 'normal'",
            ),
            "resonant_delivery_latency_percentile_seconds": _percentiles(connection, "duration"),
            "resonant_delivery_first_attempt_percentile_seconds": _percentiles(
                connection, "a.started_at - d.accepted_at", "number = 1"
            ),
        }
        conditions = (
            "measure = 'attempt' AND result <> 'lost'",
            "measure = 'delivery' AND result = 'delivered'",
            "measure = 'retry_delay'",
        )
        for name, condition in zip(HISTOGRAMS, conditions, strict=True):
            found[f"{name}_count"] = count("endpoint", condition)
            found[f"{name}_sum"] = read("endpoint", "SUM(total)", f"resonant_rollups WHERE {condition}")
            found[f"{name}_bucket"] = {
                key | {("le", math.inf)}: number for key, number in found[f"{name}_count"].items()
            }
            for bound in BUCKETS[:-1]:
                below = count("endpoint", f"{condition} AND le <= {bound}")
                found[f"{name}_bucket"] |= {key | {("le", bound)}: number for key, number in below.items()}
    return found


def _percentiles(connection: sqlite3.Connection, seconds: str, condition: str = "true") -> Samples:
    rows = connection.execute(
        f"SELECT endpoint, {seconds} FROM resonant_attempts a JOIN resonant_deliveries d ON d.id = a.delivery_id "
        f"WHERE a.result <> 'lost' AND NOT late AND a.started_at > ? AND {condition}",
        (time.time() - DAY,),
    ).fetchall()
    return {
        frozenset({("endpoint", endpoint), ("percentile", f"p{rank}")}): float(
            np.percentile([duration for name, duration in rows if name == endpoint], rank)
        )
        for endpoint in {name for name, _ in rows}
        for rank in (50, 95, 99)
    }
