"""A user's machine in a folder: commands in their own processes, and a receiver that keeps a journal."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.machine import Machine, Up
from support.prefect import patient_client
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UP_VARIABLES = {
    # Relative paths, since the worker runs in another folder.
    "RESONANT_HOME": "resonant",
    "RESONANT_DATABASE_URL": "sqlite:///resonant/resonant.db",
    "RESONANT_POLICIES": json.dumps({"once": {"max_attempts": 1}}),
    "RESONANT_ALERT_MIN_ATTEMPTS": "5",
}


@dataclass
class ReceiverProcess:
    """A receiver in its own process, and its journal."""

    url: str
    journal_path: Path
    process: subprocess.Popen[str]

    @property
    def journal(self) -> list[dict]:
        if not self.journal_path.exists():
            return []
        return [json.loads(line) for line in self.journal_path.read_text().splitlines() if line.endswith("}")]


@pytest.fixture
def machine(tmp_path, prefect_api) -> Machine:
    return Machine(tmp_path, prefect_api)


@pytest.fixture(scope="session")
def up_machine(tmp_path_factory) -> Machine:
    """The machine of ``up``."""
    return Machine(tmp_path_factory.mktemp("up"), variables=UP_VARIABLES)


@pytest.fixture(scope="session")
def ensure_up(up_machine):
    """Return the running ``resonant up``, and start it if there is none."""
    with contextlib.ExitStack() as stack:
        started: list[Up] = []

        def ensure() -> Up:
            if not started or started[-1].process.poll() is not None:
                started.append(stack.enter_context(up_machine.up()))
            return started[-1]

        yield ensure


@pytest.fixture
def up(ensure_up) -> Up:
    """A ``resonant up`` that tests share, so each uses its own endpoint; if it has ended, the next test starts another."""
    return ensure_up()


@pytest.fixture
def start_receiver(tmp_path):
    """Start a receiver with a script, ``module:function``, in its own process."""
    with receivers_in(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_receiver(tmp_path_factory):
    """Start a receiver for all tests of a file."""
    with receivers_in(tmp_path_factory.mktemp("receivers")) as start:
        yield start


@contextlib.contextmanager
def receivers_in(folder: Path) -> Iterator[Callable[..., ReceiverProcess]]:
    here = Path(__file__).parent
    with contextlib.ExitStack() as stack:

        def start(script: str, *arguments: str) -> ReceiverProcess:
            journal = folder / f"journal-{time.monotonic_ns()}.jsonl"
            command = [sys.executable, "-m", "resonant.testing", "--journal", str(journal)]
            process = subprocess.Popen(
                [*command, "--script", script, *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
            )

            def stop() -> None:
                process.terminate()
                process.wait(60)
                process.stdout.close()

            stack.callback(stop)
            return ReceiverProcess(process.stdout.readline().split()[-1], journal, process)

        yield start


@pytest.fixture
def task_runs(machine):
    """Read the task runs of all flow runs that made attempts, once all have ended and they are ``complete``."""

    def read(complete: Callable[[list[dict]], bool]) -> list[dict]:
        with patient_client(machine.prefect_api) as client:
            owners = [row["owner"] for row in machine.query("SELECT DISTINCT owner FROM resonant_attempts")]
            of_runs = {"flow_runs": {"id": {"any_": owners}}, "limit": 200}

            def read_all() -> list[dict]:
                found: list[dict] = []
                while page := client.post("/task_runs/filter", json=of_runs | {"offset": len(found)}).json():
                    found += page
                ended = all(each["state_type"] in ("COMPLETED", "FAILED", "CRASHED") for each in found)
                return found if ended and complete(found) else []

            return wait_until(read_all, every=0.5)

    return read
