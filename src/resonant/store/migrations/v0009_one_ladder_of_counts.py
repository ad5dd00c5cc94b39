"""All counts are sketches: the counters of Prometheus become sketches of the span *ever*, accepted events have only a ledger."""

import json
import math
import struct
import time
from collections import defaultdict

from sqlalchemy import Connection, text

revision = "0009"
down_revision = "0008"

_EVER = -1
_NANOSECONDS = 10**9
_QUANTA_A_SECOND = 2**16  # sums of seconds were multiples of a quantum
_MOST_ROUNDED_UP = 7630  # nanoseconds: half a quantum
_LAST_BOUND = 86_400.0
# Alerts read the replays of the last hour.
_REPLAYS_KEPT_SECONDS = 2 * 3600
_COUNTED = text(
    """SELECT measure, endpoint, result, category, code, le, sum(count), sum(total)
    FROM (SELECT measure, endpoint, result, category, code, le, count, total FROM resonant_rollups
          UNION ALL SELECT * FROM resonant_rollup_totals) AS counted
    WHERE measure <> 'accepted' GROUP BY measure, endpoint, result, category, code, le"""
)
_UNFOLDED = text("SELECT entries FROM resonant_tallies")
_REPLAYED = text(
    """SELECT minute, endpoint, event_type, sum(count)
    FROM (SELECT minute, measure, endpoint, event_type, count FROM resonant_rollups
          UNION ALL SELECT minute, measure, endpoint, event_type, count FROM resonant_rollup_history) AS counted
    WHERE measure = 'replay' AND minute >= :since GROUP BY minute, endpoint, event_type"""
)
_FOLDED = (
    "resonant_acceptances",
    "resonant_rollups",
    "resonant_rollup_totals",
    "resonant_rollup_history",
)
_INSERT = text(
    "INSERT INTO resonant_sketches (minute, entries, buckets) VALUES (:minute, :entries, :buckets)"
)


def upgrade(connection: Connection) -> None:
    """Replace the counters of 0.1.0 by sketches."""
    if connection.dialect.name == "postgresql":
        # Wait for the folds of processes of 0.1.0, whose counts would be dropped; in the order in which they lock.
        connection.exec_driver_sql(f"LOCK TABLE {', '.join(_FOLDED)} IN ACCESS EXCLUSIVE MODE")
    for row in (_ever(connection), *_replays(connection)):
        if row["entries"] != "[]":
            connection.execute(_INSERT, row)
    for table in _FOLDED[1:]:
        connection.exec_driver_sql(f"DROP TABLE {table}")
    for column in ("event_type", "accepted_at", "counted"):
        connection.exec_driver_sql(f"ALTER TABLE resonant_acceptances DROP COLUMN {column}")


def _ever(connection: Connection) -> dict[str, object]:
    counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
    totals: defaultdict[tuple[str, ...], int] = defaultdict(int)
    buckets: defaultdict[tuple[str, ...], dict[int, int]] = defaultdict(dict)
    for measure, endpoint, result, category, code, le, count, seconds in connection.execute(_COUNTED):
        labels: tuple[str, ...] = (measure, endpoint, "", result, category, code, "")
        if measure == "retry_delay":
            labels = ("delay", endpoint, "", "", "", "", "")
        counts[labels] += int(count)
        # Rounded up, since a sum that falls by a nanosecond would look like a restart.
        quanta = round(seconds * _QUANTA_A_SECOND)
        totals[labels] += -(-quanta * _NANOSECONDS // _QUANTA_A_SECOND)
        if le < math.inf or seconds:
            bucket = _bucket_below(le)
            buckets[labels][bucket] = buckets[labels].get(bucket, 0) + int(count)
    # Counts that are not folded yet lose that rounding from now on, and their sums must not fall either.
    for tally in connection.execute(_UNFOLDED).scalars():
        for measure, endpoint, _, result, category, code, _, _, measured in json.loads(tally):
            if measured and measure in ("attempt", "delivery", "delay"):
                totals[measure, endpoint, "", result, category, code, ""] += measured * _MOST_ROUNDED_UP
    entries, used, numbers = [], [], []
    for labels in {**totals, **counts}:
        count = counts[labels]
        of_labels = sorted(buckets[labels].items())
        entries.append([*labels, count, totals[labels], None, None, len(of_labels)])
        used += [bucket for bucket, _ in of_labels]
        numbers += [number for _, number in of_labels]
    packed = struct.pack(f"<{len(used)}h{len(used)}Q", *used, *numbers)
    return {"minute": _EVER, "entries": json.dumps(entries), "buckets": packed}


def _bucket_below(bound: float) -> int:
    """Return a bucket, 2 % wide, just below a bound of the histograms."""
    bucket = math.ceil(math.log(min(bound, _LAST_BOUND)) / math.log(1.02))
    return bucket + 1 if bound == math.inf else bucket - 1


def _replays(connection: Connection) -> list[dict[str, object]]:
    by_minute: defaultdict[int, list[list[object]]] = defaultdict(list)
    recent = {"since": int(time.time()) - _REPLAYS_KEPT_SECONDS}
    for minute, endpoint, event_type, count in connection.execute(_REPLAYED, recent):
        labels = ("replay", endpoint, event_type, "replayed", "", "", "")
        by_minute[minute].append([*labels, int(count), 0, None, None, 0])
    return [
        {"minute": minute, "entries": json.dumps(entries), "buckets": b""}
        for minute, entries in by_minute.items()
    ]
