"""``resonant up``: all of it starts, works together, and ends together, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from resonant.cli.server import free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.engine


@dataclass
class Home:
    """A user's home; a relative store, as the worker runs in another folder."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RESONANT_", "PREFECT_"))}
        return kept | {
            "HOME": str(self.path),
            "RESONANT_HOME": "resonant",
            "RESONANT_DATABASE_URL": "sqlite:///events.db",
            "PREFECT_HOME": str(self.path / "prefect"),
        }

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "resonant", *arguments],
            cwd=self.path,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def unfinished_runs(self) -> int:
        """What the server's own database says, once it has stopped."""
        with contextlib.closing(sqlite3.connect(self.path / "prefect" / "prefect.db")) as database:
            query = "SELECT count(*) FROM flow_run WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')"
            return database.execute(query).fetchone()[0]


@dataclass
class Up:
    """A ``resonant up`` that is ready, and every process that came of it."""

    process: subprocess.Popen[str]
    port: int
    said: str

    @property
    def family(self) -> list[psutil.Process]:
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def find(self, *words: str) -> psutil.Process:
        return next(each for each in self.family if each.cmdline()[1:] == ["-m", *words])


@contextlib.contextmanager
def running(home: Home):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "resonant", "up", "--port", str(port)],
        cwd=home.path,
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = ""
    try:
        for line in process.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        else:
            pytest.fail(process.communicate()[1])
        yield Up(process, port, said)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def wait_until(condition, seconds: float = 45.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "what was waited for did not happen"
        time.sleep(0.2)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def a_run_is_running(up: Up) -> bool:
    query = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    return httpx.post(f"http://127.0.0.1:{up.port}/api/flow_runs/count", json=query).json() > 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def up(home):
    with running(home) as started:
        yield started


def test_it_says_what_runs_and_where(up, home):
    assert re.search(rf"^UI +http://127\.0\.0\.1:{up.port}$", up.said, re.MULTILINE)
    assert "emit-events/drain" in up.said
    logs = re.search(r"^logs +(.*)$", up.said, re.MULTILINE)[1].split(", ")
    assert len(logs) == 2
    assert all((home.path / log).is_file() for log in logs)


def test_the_ui_talks_to_the_server_on_this_port(up):
    settings = httpx.get(f"http://127.0.0.1:{up.port}/ui-settings").json()
    assert settings["api_url"] == f"http://127.0.0.1:{up.port}/api"
    assert "<title>" in httpx.get(f"http://127.0.0.1:{up.port}/", follow_redirects=True).text


def test_nobody_else_can_reach_it(up):
    addresses = [
        each.laddr.ip for each in up.find("deployments.server").net_connections() if each.status == "LISTEN"
    ]
    assert addresses == ["127.0.0.1"]


def test_what_is_stored_is_emitted_by_the_worker_within_seconds(up, home, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    added = home.run("endpoint", "add", "hooks", receiver.url, "--allow-private")
    assert added.returncode == 0, added.stderr
    assert "starting" not in added.stderr, "it uses the server that is up"
    (home.path / "events.jsonl").write_text('{"type": "t", "source": "/s", "data": {"n": 1}}\n')
    wait_until(lambda: a_run_is_running(up))

    assert home.run("enqueue", "events.jsonl", "--endpoint", "hooks").returncode == 0

    wait_until(lambda: receiver.journal, 15)
    wait_until(lambda: json.loads(home.run("status", "--json").stdout)["delivered"] == 1, 10)


def test_a_second_one_says_that_there_is_one(up, home):
    second = home.run("up", "--port", str(free_port()))
    assert second.returncode == 1
    assert second.stderr == (
        f"resonant: `resonant up` runs already: http://127.0.0.1:{up.port}, process {up.process.pid}\n"
    )


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = Home(tmp_path).run("up", "--port", str(port))
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"port {port} is in use" in refused.stderr
    assert f"--port {port + 1}" in refused.stderr


def test_with_another_server_configured_it_says_how_to_use_that_one(tmp_path):
    refused = Home(tmp_path).run("up", PREFECT_API_URL="http://prefect.example/api")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "http://prefect.example/api" in refused.stderr
    assert "prefect worker start --pool resonant" in refused.stderr


def test_a_termination_stops_all_of_it_and_hands_back_what_it_ran(up, home):
    wait_until(lambda: a_run_is_running(up))
    family = up.family
    up.process.terminate()

    assert up.process.wait(timeout=60) == 0
    assert not alive(family)
    assert not (home.path / "resonant" / "up.json").exists()
    assert home.unfinished_runs() == 0


def test_when_it_is_killed_nothing_of_it_remains_and_the_next_one_closes_its_runs(home):
    with running(home) as killed:
        wait_until(lambda: a_run_is_running(killed))
        family = killed.family
        killed.process.kill()
        wait_until(lambda: not alive(family))
    assert home.unfinished_runs() > 0

    with running(home) as next_one:
        family = next_one.family
        next_one.find("deployments.server").kill()

        # And when a part of it dies, all of it ends.
        assert next_one.process.wait(timeout=60) == 1
        assert "the Prefect server ended (exit code 137)" in next_one.process.stderr.read()
        assert not alive(family)
    with contextlib.closing(sqlite3.connect(home.path / "prefect" / "prefect.db")) as database:
        query = (
            "SELECT count(*) FROM flow_run_state WHERE type = 'CRASHED' AND message = 'its worker is gone'"
        )
        assert database.execute(query).fetchone()[0] > 0


def test_help_shows_an_example(tmp_path):
    helped = Home(tmp_path).run("up", "--help")
    assert "Example: resonant up --port" in helped.stdout
