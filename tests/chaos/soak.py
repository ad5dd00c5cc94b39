"""The soak's samples, its accounts at the end, and whether what should stay flat did."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import median
from typing import TYPE_CHECKING

import psutil
from chaos_facts import Database, Look, histories
from soak_worker import event_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

_MIB = 1024 * 1024
# What has been waiting longest, of what anybody may take now.
_OLDEST_DUE = """
    SELECT min(available_at) FROM resonant_deliveries WHERE available_at <= ? AND lease_owner IS NULL"""
# When it was, and what else the machine did.
_NO_MEASURES = ("seconds", "machine_load")
# By the end of a measure's name: the last quarter's median may be so many times the second's, and so much more.
_MAY_GROW = {
    "rss_mib": (1.05, 6.0),
    "fds": (1.0, 12.0),
    "store_mib": (1.4, 16.0),
    "lag_seconds": (2.0, 15.0),
}


@dataclass
class Samples:
    """What was seen of the processes and of the store, row by row.

    Attributes:
        store: the SQLite file.
        processes: by role.
    """

    store: Path
    processes: dict[str, subprocess.Popen[bytes]]
    rows: list[dict[str, float]] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)

    def take(self) -> None:
        now = time.time()
        row = {"seconds": round(now - self.started_at, 1), "machine_load": round(os.getloadavg()[0], 2)}
        for role, process in self.processes.items():
            seen = psutil.Process(process.pid)
            row[f"{role}_rss_mib"] = round(seen.memory_info().rss / _MIB, 1)
            row[f"{role}_fds"] = seen.num_fds()
        files = (self.store, self.store.with_name(f"{self.store.name}-wal"))
        row["store_mib"] = round(sum(each.stat().st_size for each in files if each.exists()) / _MIB, 2)
        with closing(sqlite3.connect(self.store, timeout=30)) as connection:
            [oldest] = connection.execute(_OLDEST_DUE, (now,)).fetchone()
        row["lag_seconds"] = 0.0 if oldest is None else round(now - oldest, 2)
        self.rows.append(row)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[-1])
            writer.writeheader()
            writer.writerows(self.rows)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return each measure's median in the second and in the last quarter, and its highest."""
        quarter = len(self.rows) // 4
        found = {}
        for name in self.rows[0]:
            if name not in _NO_MEASURES:
                values = [row[name] for row in self.rows]
                found[name] = {
                    "second quarter": median(values[quarter : 2 * quarter]),
                    "last quarter": median(values[-quarter:]),
                    "highest": max(values),
                }
        return found

    def problems(self) -> Iterator[str]:
        """Say what grew."""
        for name, seen in self.figures().items():
            factor, more = next(bound for end, bound in _MAY_GROW.items() if name.endswith(end))
            if seen["last quarter"] > factor * seen["second quarter"] + more:
                yield f"{name} grew from {seen['second quarter']} to {seen['last quarter']}"


@dataclass
class Accounts:
    """Everything that was produced, held against the store, the archives and the receiver's journal."""

    produced: int
    url: str
    folder: Path
    journal: Path

    def figures_and_problems(self) -> tuple[dict[str, object], list[str]]:
        database = Database(self.url)
        with database.opened() as snapshot:
            look = Look.at(snapshot)
        problems = look.problems()
        status, recorded, answered = {}, {}, {}
        for event_id, delivery, attempts in self._all(database):
            if event_id in status:
                problems.append(f"{event_id} is there twice")
            status[event_id] = delivery["reason"] or delivery["status"]
            recorded[event_id] = sum(each["result"] != "lost" for each in attempts if not each["late"])
            answered[event_id] = Counter(each["status_code"] for each in attempts if each["status_code"])
        received, answers, altered = self._received()
        expected = {f"soak-{number:08d}" for number in range(self.produced)}
        if status.keys() != expected:
            problems.append(f"{len(expected - status.keys())} lost, {len(status.keys() - expected)} unknown")
        if altered:
            problems.append(f"{altered} were received with another body")
        if wrong := [each for each, codes in answered.items() if not codes <= answers.get(each, Counter())]:
            problems.append(f"{len(wrong)} have answers that the receiver never gave, as {wrong[0]}")
        if not look.purged:
            problems.append("nothing was purged")
        twice = sum(max(0, number - recorded.get(each, 0)) for each, number in received.items())
        if twice:
            problems.append(f"{twice} were received beyond the attempts that were recorded")
        told = Counter(status.values())
        if told.keys() - {"delivered", "exhausted", "permanent", "expired"}:
            problems.append(f"ended in other ways: {dict(told)}")
        figures: dict[str, object] = {
            "accepted": look.accepted,
            "lost": len(expected - status.keys()),
            "received twice": twice,
            "ended as": dict(told),
            "attempts": sum(recorded.values()),
            "purged": look.purged,
        }
        return figures, problems

    def _all(self, database: Database) -> Iterator[tuple[str, dict, list[dict]]]:
        for archive in sorted(self.folder.glob("purged-*.jsonl.gz")):
            with gzip.open(archive, "rt") as lines:
                for line in lines:
                    document = json.loads(line)
                    yield document["delivery"]["event_id"], document["delivery"], document["attempts"]
        for event_id, history in histories(database).items():
            yield event_id, history.delivery, history.attempts

    def _received(self) -> tuple[Counter[str], dict[str, Counter[int]], int]:
        received: Counter[str] = Counter()
        answers: dict[str, Counter[int]] = {}
        altered = 0
        with self.journal.open() as lines:
            for line in lines:
                entry = json.loads(line)
                event_id = entry["webhook_id"]
                received[event_id] += 1
                answers.setdefault(event_id, Counter())[entry["status"]] += 1
                body = event_of(int(event_id.rpartition("-")[2])).body
                altered += entry["sha256"] != sha256(body).hexdigest()
        return received, answers, altered
