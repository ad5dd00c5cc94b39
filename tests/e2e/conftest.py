"""A user's machine in a folder: the command line as a process of its own, a receiver that keeps a journal."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.machine import Machine
from support.prefect import patient_client
from support.waiting import wait_until


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
    here = Path(__file__).parent
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
                env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
            )

            def stop() -> None:
                process.terminate()
                process.wait(10)
                process.stdout.close()

            stack.callback(stop)
            return ReceiverProcess(process.stdout.readline().split()[-1], journal)

        yield start


@pytest.fixture
def task_runs(machine):
    """Read the task runs of the machine's only flow run, once the server has recorded how each ended."""

    def read(*, expected: int) -> list[dict]:
        with patient_client(machine.prefect_api) as client:
            [run] = machine.query("SELECT DISTINCT owner FROM resonant_attempts")
            of_run = {"flow_runs": {"id": {"any_": [run["owner"]]}}, "limit": 200}

            def read_all() -> list[dict]:
                found: list[dict] = []
                while page := client.post("/task_runs/filter", json=of_run | {"offset": len(found)}).json():
                    found += page
                ended = [each for each in found if each["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]
                return found if len(ended) >= expected else []

            return wait_until(read_all, every=0.5)

    return read
