"""A user's machine in a folder: the command line as a process of its own, a receiver that keeps a journal."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest


@dataclass
class Machine:
    """An empty home, a store in it, and a Prefect server to use."""

    home: Path
    prefect_api: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RESONANT_", "PREFECT_"))
        }
        return kept | {
            "HOME": str(self.home),
            "RESONANT_HOME": str(self.home / "resonant"),
            "PREFECT_HOME": str(self.home / "prefect"),
            **({"PREFECT_API_URL": self.prefect_api} if self.prefect_api else {}),
            **self.variables,
        }

    @property
    def database(self) -> Path:
        return self.home / "resonant" / "resonant.db"

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "resonant", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments: str, typed: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "resonant", *arguments],
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def read(self, *arguments: str):
        """Run a command that reads, and return its JSON document."""
        finished = self.run(*arguments, "--json")
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    def query(self, statement: str) -> list[sqlite3.Row]:
        """Look into the store past Resonant."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(statement).fetchall()

    def write_events(self, name: str, events: list[dict]) -> str:
        path = self.home / name
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
        return str(path)


@dataclass
class ReceiverProcess:
    """A receiver that is a process of its own, and the journal it keeps."""

    url: str
    journal_path: Path

    @property
    def journal(self) -> list[dict]:
        if not self.journal_path.exists():
            return []
        return [json.loads(line) for line in self.journal_path.read_text().splitlines() if line.endswith("}")]


@pytest.fixture
def machine(tmp_path, prefect_api) -> Machine:
    return Machine(tmp_path, prefect_api)


@pytest.fixture
def start_receiver(tmp_path):
    """Start a receiver with a script, ``module:function``, as a process of its own."""
    with contextlib.ExitStack() as stack:

        def start(script: str, *arguments: str) -> ReceiverProcess:
            journal = tmp_path / f"journal-{time.monotonic_ns()}.jsonl"
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "resonant.testing",
                    "--journal",
                    str(journal),
                    "--script",
                    script,
                    *arguments,
                ],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            )

            def stop() -> None:
                process.terminate()
                process.wait(10)
                process.stdout.close()

            stack.callback(stop)
            return ReceiverProcess(process.stdout.readline().split()[-1], journal)

        yield start


@pytest.fixture
def task_runs(prefect_api):
    """Read the task runs of the newest flow run of a name, once the server has recorded how each ended."""

    def read(flow_name: str = "emit-events", *, expected: int) -> list[dict]:
        with httpx.Client(base_url=prefect_api) as client:
            query = {
                "flows": {"name": {"any_": [flow_name]}},
                # Without those that a schedule has planned.
                "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
                "sort": "START_TIME_DESC",
                "limit": 1,
            }
            run = client.post("/flow_runs/filter", json=query).json()[0]
            of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}, "limit": 200}
            give_up_at = time.monotonic() + 60
            while True:
                found: list[dict] = []
                while page := client.post("/task_runs/filter", json=of_run | {"offset": len(found)}).json():
                    found += page
                ended = [each for each in found if each["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]
                if len(ended) >= expected or time.monotonic() > give_up_at:
                    return found
                time.sleep(0.5)

    return read
