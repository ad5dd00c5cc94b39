"""The receiver of the kill suite as a process of its own, and what it received since a round began."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Journal:
    """What the receiver at ``url`` wrote down, read from a mark on: the file grows with each round."""

    url: str
    path: Path
    _offset: int = field(default=0)

    def mark(self) -> None:
        """Read from here on."""
        self._offset = self.path.stat().st_size if self.path.exists() else 0

    def received(self) -> dict[str, list[dict]]:
        """Return what was received since the mark, by webhook-id."""
        found: defaultdict[str, list[dict]] = defaultdict(list)
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if line.endswith(b"\n"):
                    entry = json.loads(line)
                    found[entry["webhook_id"]].append(entry)
        return dict(found)


@contextmanager
def started_receiver(folder: Path) -> Iterator[Journal]:
    path = folder / "received.jsonl"
    script = ("--journal", str(path), "--script", "chaos_receiver:by_type")
    with subprocess.Popen(
        [sys.executable, "-m", "resonant.testing", *script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    ) as process:
        try:
            yield Journal(process.stdout.readline().strip(), path)
        finally:
            process.terminate()
