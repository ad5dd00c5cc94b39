"""A receiver in its own process, and the requests that it received since a mark, such as the beginning of a round."""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TESTS = Path(__file__).parents[1]
_ENDS_WITHIN_SECONDS = 120.0


@dataclass
class ReceiverProcess:
    """A receiver at ``url``, whose journal is read from a mark on: the file grows with each round."""

    process: subprocess.Popen[str]
    url: str
    path: Path
    _offset: int = 0

    def mark(self) -> None:
        """Read from here on."""
        self._offset = self.path.stat().st_size

    @property
    def journal(self) -> list[dict]:
        """The requests received since the mark."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            return [json.loads(line) for line in file if line.endswith(b"\n")]

    def received(self) -> dict[str, list[dict]]:
        """Return the requests received since the mark, by webhook-id."""
        found: defaultdict[str, list[dict]] = defaultdict(list)
        for entry in self.journal:
            found[entry["webhook_id"]].append(entry)
        return dict(found)


@contextmanager
def started_receiver(folder: Path, script: str, **environment: str) -> Iterator[ReceiverProcess]:
    """Run a receiver with this script, ``module:function``; at its end, say if the script has failed."""
    folder.mkdir(exist_ok=True)
    path = folder / f"received-{time.monotonic_ns()}.jsonl"
    path.touch()
    command = [sys.executable, "-m", "resonant.testing", "--journal", str(path), "--script", script]
    found = [str(_TESTS), str(_TESTS / "chaos"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(found)} | environment
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield ReceiverProcess(process, process.stdout.readline().strip(), path)
        finally:
            process.terminate()
            try:
                code = process.wait(_ENDS_WITHIN_SECONDS)
            finally:
                process.kill()
        assert code == 0, f"the receiver ended with {code}: its standard error says why"
