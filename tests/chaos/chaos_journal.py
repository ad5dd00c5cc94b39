"""A receiver in its own process, and the requests that it received since a mark, such as the beginning of a round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDS_WITHIN_SECONDS = 30.0


@dataclass
class Journal:
    """The journal of the receiver at ``url``, read from a mark on: the file grows with each round."""

    url: str
    path: Path
    _offset: int = field(default=0)

    def mark(self) -> None:
        """Read from here on."""
        self._offset = self.path.stat().st_size if self.path.exists() else 0

    def received(self) -> dict[str, list[dict]]:
        """Return the requests received since the mark, by webhook-id."""
        found: defaultdict[str, list[dict]] = defaultdict(list)
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if line.endswith(b"\n"):
                    entry = json.loads(line)
                    found[entry["webhook_id"]].append(entry)
        return dict(found)


@contextmanager
def started_receiver(folder: Path, script: str, **environment: str) -> Iterator[Journal]:
    """Run a receiver with this script, of a module beside this one; at its end, say if the script has failed."""
    folder.mkdir(exist_ok=True)
    path = folder / f"received-{time.monotonic_ns()}.jsonl"
    path.touch()
    command = [sys.executable, "-m", "resonant.testing", "--journal", str(path), "--script", script]
    found_here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *_python_path()])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | found_here | environment
    ) as process:
        try:
            yield Journal(process.stdout.readline().strip(), path)
        finally:
            process.terminate()
            try:
                code = process.wait(_ENDS_WITHIN_SECONDS)
            finally:
                process.kill()
        assert code == 0, f"the receiver ended with {code}: its standard error says why"


def _python_path() -> list[str]:
    return [path] if (path := os.environ.get("PYTHONPATH")) else []
