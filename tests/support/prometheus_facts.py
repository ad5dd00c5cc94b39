"""The expected samples of Prometheus, read from the store."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter, defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from resonant.store.counts.sketches import BOUNDS, NANOSECONDS, Labels, Sketch
from support.stores import read_counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86_400
# The histograms, with the measure and the labels of their sketches.
HISTOGRAMS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("resonant_delivery_attempt_duration_seconds", "attempt", {}),
    ("resonant_delivery_end_to_end_duration_seconds", "delivery", {"result": "delivered"}),
    ("resonant_delivery_retry_delay_seconds", "delay", {}),
)
Samples = dict[frozenset[tuple[str, Any]], float]


def matching(counters: dict[Labels, Sketch], measure: str, **labels: str) -> Iterator[tuple[Labels, Sketch]]:
    """Yield the counters of a measure with these labels."""
    for key, sketch in counters.items():
        if key.measure == measure and all(getattr(key, name) == value for name, value in labels.items()):
            yield key, sketch


def facts(database: Path) -> dict[str, Samples]:
    """Compute every metric from the tables, independently of the exposition; zeros are omitted."""
    counters = read_counters(database)
    with closing(sqlite3.connect(database)) as connection:

        def read(labels: str, value: str, rest: str) -> Samples:
            names = labels.split(", ")
            rows = connection.execute(f"SELECT {value}, {labels} FROM {rest} GROUP BY {labels}")
            return {
                frozenset(zip(names, row[1:], strict=True)): row[0] for row in rows if row[0] not in (0, None)
            }

        def count(*names: str, measure: str, **labels: str) -> Samples:
            found: Counter[frozenset[tuple[str, Any]]] = Counter()
            for key, sketch in matching(counters, measure, **labels):
                # Prometheus treats an empty label as absent.
                found[frozenset((name, getattr(key, name)) for name in names if getattr(key, name))] += (
                    sketch.count
                )
            return dict(found)

        found = {
            "resonant_events_accepted_total": read(
                "endpoint",
                "SUM(accepted)",
                "(SELECT name AS endpoint, accepted FROM resonant_endpoints "
                "UNION ALL SELECT endpoint, count FROM resonant_acceptances)",
            ),
            "resonant_delivery_outcomes_total": {
                frozenset(("outcome" if name == "result" else name, value) for name, value in key): number
                for key, number in count("endpoint", "result", measure="delivery").items()
            },
            "resonant_delivery_attempts_total": count(
                "endpoint", "result", "category", "code", measure="attempt"
            ),
            "resonant_dead_letter_replays_total": count("endpoint", measure="replay"),
            "resonant_dead_letter_purges_total": count("endpoint", measure="purge", result="dead_letter"),
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
        for name, measure, result in HISTOGRAMS:
            found |= {f"{name}_{part}": {} for part in ("count", "sum", "bucket")}
            sums: defaultdict[str, Sketch] = defaultdict(Sketch)
            for key, sketch in matching(counters, measure, **result):
                if key.result != "lost":
                    sums[key.endpoint].add(sketch)
            for endpoint, sketch in sums.items():
                key = frozenset({("endpoint", endpoint)})
                found[f"{name}_count"][key] = sketch.count
                found[f"{name}_sum"][key] = sketch.total / NANOSECONDS
                for bound in BOUNDS:
                    below = sum(number for le, number in sketch.by_bound().items() if le <= bound)
                    if below:
                        found[f"{name}_bucket"][key | {("le", bound)}] = below
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
