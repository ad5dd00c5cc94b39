"""``resonant up``: all of it starts, works together, and ends together, however it ends."""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3

import httpx
import pytest

from resonant.cli.server import free_port
from support.machine import Machine
from support.processes import alive
from support.waiting import wait_until

pytestmark = pytest.mark.engine


# A relative path, since the worker runs in another folder.
RELATIVE = {"RESONANT_HOME": "resonant", "RESONANT_DATABASE_URL": "sqlite:///events.db"}


def unfinished_runs(machine: Machine) -> int:
    """Query the database of the stopped server."""
    with contextlib.closing(sqlite3.connect(machine.home / "prefect" / "prefect.db")) as database:
        query = "SELECT count(*) FROM flow_run WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING')"
        return database.execute(query).fetchone()[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("home"), variables=RELATIVE)


@pytest.fixture(scope="module")
def up(home):
    with home.up() as started:
        yield started


def test_it_says_what_runs_and_where(up, home):
    assert re.search(rf"^UI +http://127\.0\.0\.1:{up.port}$", up.said, re.MULTILINE)
    assert "emit-events/drain" in up.said
    logs = re.search(r"^logs +(.*)$", up.said, re.MULTILINE)[1].split(", ")
    assert len(logs) == 2
    assert all((home.home / log).is_file() for log in logs)


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
    (home.home / "events.jsonl").write_text('{"type": "t", "source": "/s", "data": {"n": 1}}\n')
    wait_until(up.is_running_something)

    assert home.run("enqueue", "events.jsonl", "--endpoint", "hooks").returncode == 0

    wait_until(lambda: receiver.journal, 30)
    wait_until(lambda: home.read("status")["delivered"] == 1, 30)


def test_a_second_one_says_that_there_is_one(up, home):
    second = home.run("up", "--port", str(free_port()))
    assert second.returncode == 1
    assert second.stderr == (
        f"resonant: `resonant up` runs already: http://127.0.0.1:{up.port}, process {up.process.pid}\n"
    )


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = Machine(tmp_path).run("up", "--port", str(port))
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"port {port} is in use" in refused.stderr
    assert f"--port {port + 1}" in refused.stderr


def test_with_another_server_configured_it_says_how_to_use_that_one(tmp_path):
    refused = Machine(tmp_path).run("up", PREFECT_API_URL="http://prefect.example/api")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "http://prefect.example/api" in refused.stderr
    assert "prefect worker start --pool resonant" in refused.stderr


def test_a_termination_stops_all_of_it_and_hands_back_what_it_ran(up, home):
    wait_until(up.is_running_something)
    family = up.family
    up.process.terminate()

    assert up.process.wait(timeout=60) == 0
    assert not alive(family)
    assert not (home.home / "resonant" / "up.json").exists()
    assert unfinished_runs(home) == 0


def test_when_it_is_killed_nothing_of_it_remains_and_the_next_one_closes_its_runs(home):
    with home.up() as killed:
        wait_until(killed.is_running_something)
        family = killed.family
        killed.process.kill()
        wait_until(lambda: not alive(family))
    assert unfinished_runs(home) > 0

    with home.up() as next_one:
        family = next_one.family
        next_one.find("deployments.server").kill()

        # And when a part of it dies, all of it ends.
        assert next_one.process.wait(timeout=60) == 1
        assert "the Prefect server ended (exit code 137)" in next_one.process.stderr.read()
        assert not alive(family)
    with contextlib.closing(sqlite3.connect(home.home / "prefect" / "prefect.db")) as database:
        query = (
            "SELECT count(*) FROM flow_run_state WHERE type = 'CRASHED' AND message = 'its worker is gone'"
        )
        assert database.execute(query).fetchone()[0] > 0


def test_help_shows_an_example(tmp_path):
    helped = Machine(tmp_path).run("up", "--help")
    assert "Example: resonant up --port" in helped.stdout
