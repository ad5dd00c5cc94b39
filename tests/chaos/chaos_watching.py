"""Watches the store and the metrics file while processes are killed: the invariants always hold, not only at the end."""

import threading
import time
from pathlib import Path

from chaos_facts import Database, Look
from prometheus_client.parser import text_string_to_metric_families

_LOOK_SECONDS = 0.1
_READ_SECONDS = 0.01
_LAST_SAMPLE = "\nresonant_last_export_timestamp_seconds "
# If a watch itself paused for so long, the machine stalled: leases of processes that were not stopped may then expire.
STALL_SECONDS = 0.8


class _Watch(threading.Thread):
    """Looks repeatedly within its ``with`` block, and collects the problems."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.problems: list[str] = []
        self.looks = 0
        self._over = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # noqa: BLE001 - a watch that failed must not count as one without problems
            self.problems.append(f"{type(self).__name__} ended: {error!r}")


class StoreWatch(_Watch):
    """Checks the balance and the counters, one snapshot at a time."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self.longest_gap = 0.0

    def _watch(self) -> None:
        with self._database.opened() as snapshot:
            before = Look.at(snapshot)
            last = time.monotonic()
            while not self._over.wait(_LOOK_SECONDS):
                now = Look.at(snapshot)
                self.problems += [*now.problems(), *now.fallen_since(before)]
                before, self.looks = now, self.looks + 1
                moment = time.monotonic()
                self.longest_gap, last = max(self.longest_gap, moment - last), moment


class FileWatch(_Watch):
    """Reads like a node exporter: the file exists, is complete, and its counters never fall."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._counters: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def _watch(self) -> None:
        seen = None
        while not self._over.wait(_READ_SECONDS):
            try:
                text = self._path.read_text()
            except FileNotFoundError:
                self.problems.append("the metrics file is gone")
                continue
            self.looks += 1
            if text != seen:
                self.problems += self.read(text)
                seen = text

    def read(self, text: str) -> list[str]:
        """Return the problems of this text, and the counters that fell since the previous one."""
        if not text.endswith("\n") or _LAST_SAMPLE not in text:
            return [f"the metrics file is cut short: {len(text)} characters, …{text[-60:]!r}"]
        found = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }
        fallen = [
            f"{key} fell from {value} to {found.get(key)} in the metrics file"
            for key, value in self._counters.items()
            if found.get(key, 0.0) < value
        ]
        self._counters = found
        return fallen
