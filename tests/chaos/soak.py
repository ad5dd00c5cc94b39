"""The soak's samples, whether they stay flat, and its accounts at the end."""

import csv
import os
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
from chaos_facts import (
    Database,
    History,
    Look,
    histories,
    problems_of_journal,
    sent_beyond_records,
)
from soak_worker import event_of

from support.archives import read_documents
from support.receivers import ReceiverProcess

_MIB = 1024 * 1024
_ENDS = {"delivered", "exhausted", "permanent", "expired"}
# The due delivery that has waited longest.
_OLDEST_DUE = """
    SELECT min(available_at) FROM resonant_deliveries WHERE available_at <= ? AND lease_owner IS NULL"""
# The time, and the load of the machine.
_NO_MEASURES = ("seconds", "machine_load")
# By the end of a measure's name: the last quarter's median may be the second's, times the first number, plus the second.
_MAY_GROW = {
    "rss_mib": (1.05, 6.0),
    "fds": (1.0, 12.0),
    "store_mib": (1.4, 16.0),
    "lag_seconds": (2.0, 15.0),
}


@dataclass
class Samples:
    """Samples of the processes and of the store, row by row.

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
        """Return the measures that grew."""
        for name, seen in self.figures().items():
            factor, more = next(bound for end, bound in _MAY_GROW.items() if name.endswith(end))
            if seen["last quarter"] > factor * seen["second quarter"] + more:
                yield f"{name} grew from {seen['second quarter']} to {seen['last quarter']}"


def accounts(
    produced: int, url: str, folder: Path, journal: ReceiverProcess
) -> tuple[dict[str, object], list[str]]:
    """Compare everything that was produced with the store, the archives and the receiver's journal.

    Returns:
        Figures, and the problems.
    """
    database = Database(url)
    with database.opened() as snapshot:
        look = Look.at(snapshot)
    stored = histories(database)
    archived = [
        History(each["delivery"], each["attempts"], is_purged=True)
        for path in sorted(folder.glob("purged-*.jsonl.gz"))
        for each in read_documents(path)
    ]
    known = {each.event_id: each for each in archived} | stored
    expected = {f"soak-{number:08d}": number for number in range(produced)}
    received = journal.received()

    def body_of(event_id: str) -> bytes | None:
        return event_of(expected[event_id]).body if event_id in expected else None

    ends = Counter(each.delivery["reason"] or each.delivery["status"] for each in known.values())
    wrong = {
        "are there twice": len(stored) + len(archived) - len(known),
        "are lost": len(expected.keys() - known.keys()),
        "are unknown": len(known.keys() - expected.keys()),
        "sends were received without a recorded attempt": sum(sent_beyond_records(known, received).values()),
        "ended in other ways": sum(ends[each] for each in ends.keys() - _ENDS),
    }
    problems = [
        *look.problems(),
        *problems_of_journal(known, received, body_of),
        *(f"{number} {problem}" for problem, number in wrong.items() if number),
        *(() if look.purged else ("nothing was purged",)),
    ]
    figures: dict[str, object] = {
        "accepted": look.accepted,
        "lost": wrong["are lost"],
        "received twice": wrong["sends were received without a recorded attempt"],
        "ended as": dict(ends),
        "attempts": sum(len(each.recorded) for each in known.values()),
        "purged": look.purged,
    }
    return figures, problems
