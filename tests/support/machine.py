"""A user's machine in a folder: runs commands in processes, with a home, a store and a server."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prefect import Flow, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from resonant.blocks import WebhookEndpoint
from support.commands import in_environment, run_in_process
from support.failures import show_on_failure
from support.ports import free_port
from support.prefect import forget_server, patient_client
from support.prefect_database import give_prefect_database
from support.processes import clean_environment, family
from support.waiting import wait_until

STOP_SECONDS = 120.0
WORKER = ("prefect", "worker", "start", "--pool", "resonant", "--name", "resonant-up")
_RUN_SECONDS = 240.0
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass
class Machine:
    """A home folder in which commands run.

    Attributes:
        home: the working folder of every command, empty at first.
        prefect_api: the server's URL; empty if commands should find or start one.
        variables: further environment variables.
        umask: the umask of every command; by default that of this process.
    """

    home: Path
    prefect_api: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    umask: int = -1

    @property
    def environment(self) -> dict[str, str]:
        homes = {
            "HOME": str(self.home),
            "RESONANT_HOME": str(self.home / "resonant"),
            "PREFECT_HOME": str(self.home / "prefect"),
        }
        api = {"PREFECT_API_URL": self.prefect_api} if self.prefect_api else {}
        return clean_environment() | homes | api | self.variables

    @property
    def database(self) -> Path:
        return self.home / "resonant" / "resonant.db"

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command with pipes for its output."""
        return self._popen([sys.executable, "-m", "resonant", *arguments], **options)

    def run(
        self, *arguments: str, typed: str = "", timeout: float = 240, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with additional environment variables."""
        return self._run([sys.executable, "-m", "resonant", *arguments], typed, timeout, variables)

    def run_code(
        self, code: str, *arguments: str, timeout: float = 240, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python to its end."""
        return self._run([sys.executable, "-c", code, *arguments], "", timeout, variables)

    def do(self, *arguments: str, typed: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command in this process; it must end with this exit code.

        A command in its own process costs seconds of CPU, mostly for imports; use ``run`` to test the process itself.
        """
        done = run_in_process(arguments, self.environment, self.home, typed)
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def run_flow(self, flow: Flow) -> State:
        """Run a flow in this process, with this machine's environment; it must complete."""
        with in_environment(self.environment, self.home):
            state = asyncio.run(flow(return_state=True))
        assert state.is_completed(), state
        return state

    def succeed(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command that must succeed."""
        finished = self.run(*arguments, **options)
        assert finished.returncode == 0, finished.stderr
        return finished

    def read(self, *arguments: str) -> Any:
        """Run a command that prints JSON, and return its document."""
        # Without a given server, Prefect's settings are known only after the command has found one.
        done = self.do if self.prefect_api else self.succeed
        return json.loads(done(*arguments, "--json").stdout)

    def save_endpoint(self, name: str, url: str, **fields: Any) -> None:
        """Save an endpoint that may be at a private address, as ``resonant endpoint add --overwrite`` does."""
        block = WebhookEndpoint(url=SecretStr(url), allow_private=True, **fields)
        with temporary_settings({PREFECT_API_URL: self.prefect_api}):
            block.save(name, overwrite=True)

    def query(self, statement: str) -> list[sqlite3.Row]:
        """Query or change the store's file directly."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(statement).fetchall()

    def write_events(self, name: str, events: list[dict]) -> str:
        path = self.home / name
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
        return str(path)

    def prepare(self) -> None:
        """Put a migrated database where Prefect's server will look for one."""
        give_prefect_database(self.home / "prefect")

    @contextlib.contextmanager
    def up(self, *options: str, **variables: str) -> Iterator["Up"]:
        """Run ``resonant up`` on free ports for the duration of the block, with options and environment variables."""
        self.prepare()
        port, console = free_port(), free_port()
        environment = self.environment | variables
        for log in ("prefect-server.log", "prefect-worker.log", "serve.log", "console.log"):
            show_on_failure(log, Path(environment["RESONANT_HOME"], log))
        process = self.start("up", "--port", str(port), "--console", str(console), *options, env=environment)
        said = ""
        try:
            for line in process.stdout:
                said += line
                if line.startswith("Ctrl-C"):
                    break
            else:
                pytest.fail(f"`resonant up` did not start: {process.communicate()[1]}")
            password = environment.get("PREFECT_API_AUTH_STRING")
            if "--auth" in options:
                password = Path(environment["RESONANT_HOME"], "prefect-password").read_text()
            auth = tuple(password.split(":", 1)) if password else None
            with patient_client(f"http://127.0.0.1:{port}/api", auth=auth) as api:
                yield Up(process, port, said, api)
            forget_server(f"http://127.0.0.1:{port}/api")
        finally:
            runs = process.poll() is None
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=STOP_SECONDS)
        if runs:
            assert process.returncode == 0, "`resonant up` must end with exit code 0 after Ctrl-C"

    def _popen(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        given = {"cwd": self.home, "env": self.environment, "umask": self.umask, "text": True}
        return subprocess.Popen(command, **pipes | given | options)

    def _run(
        self, command: list[str], typed: str, timeout: float, variables: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.home,
            env=self.environment | variables,
            umask=self.umask,
            input=typed,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@dataclass
class Up:
    """A ready ``resonant up``, and all its descendant processes.

    Attributes:
        said: its output until it was ready.
        api: a client for its Prefect server.
        noted: the lines of its standard error that ``noted_until`` has read.
    """

    process: subprocess.Popen[str]
    port: int
    said: str
    api: httpx.Client
    noted: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address of its UI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def family(self) -> list[psutil.Process]:
        return family(self.process)

    def noted_until(self, text: str = "") -> list[str]:
        """Read its standard error until a line contains the text, or to its end without one; return all lines so far."""
        for line in self.process.stderr:
            self.noted.append(line.rstrip("\n"))
            if text and text in line:
                return self.noted
        assert not text, f"it ended without {text!r}: {self.noted}"
        return self.noted

    def find(self, *words: str) -> psutil.Process:
        """Wait for a process of a module with these arguments, and return it."""
        return self._find(lambda process: process.cmdline()[1:] == ["-m", *words])

    def process_of(self, run_id: str) -> psutil.Process:
        """Wait for the process that Prefect starts for a flow run, and return it."""
        return self._find(lambda process: process.environ().get("PREFECT__FLOW_RUN_ID") == run_id)

    def _find(self, is_wanted: Callable[[psutil.Process], bool]) -> psutil.Process:
        def find() -> psutil.Process | None:
            for process in self.family:
                with contextlib.suppress(psutil.Error):  # it ended meanwhile
                    if is_wanted(process):
                        return process
            return None

        return wait_until(find)

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Have the worker run a deployment, and return the flow run's id."""
        found = self.api.get(f"/deployments/name/{deployment}").json()
        given = {"parameters": parameters}
        return self.api.post(f"/deployments/{found['id']}/create_flow_run", json=given).json()["id"]

    def final_state(self, run_id: str) -> dict[str, Any]:
        """Wait for the end of a flow run, and return its state."""

        def final() -> dict[str, Any] | None:
            state = self.api.get(f"/flow_runs/{run_id}").json()["state"]
            return state if state["type"] in _FINAL else None

        return wait_until(final, _RUN_SECONDS, every=0.2)

    def export(self) -> None:
        """Run the metrics export, and repeat it if it was cancelled, since only one may run at a time."""
        wait_until(
            lambda: self.final_state(self.start_run("export-metrics/export-metrics"))["type"] == "COMPLETED"
        )


def finished(process: subprocess.Popen[str], patience: float = 240) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a command."""
    said, errors = process.communicate(timeout=patience)
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)
