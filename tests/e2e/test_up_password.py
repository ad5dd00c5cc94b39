"""``resonant up --auth``: only this machine reaches it, only who knows its password uses it, only its owner reads its files.

Commands use the password automatically. Its user's umask removes no permissions, its folder is hostile, see
test_hostile_folder.py, and its store has an automation of another server. The last test ends it by two interrupts.
"""

import contextlib
import ipaddress
import itertools
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from support import patient
from support.browser import tab
from support.hostile_folder import make_hostile
from support.machine import STOP_SECONDS, WORKER, Machine
from support.pages import PROJECT
from support.permissions import Home, open_to_others
from support.prefect import everything_on, patient_client
from support.processes import alive, look_at
from support.waiting import wait_until

# It has a password, and a folder of its own.
pytestmark = [pytest.mark.engine, pytest.mark.own_server, pytest.mark.slow]

SECRETS = "/block_documents/filter"
EVENT = {"type": "t", "source": "/s", "data": 1}
ENABLE_ELSEWHERE = """
import asyncio, sys
from resonant.store import WorkerStore
from resonant.store.shared.run_watches import RunWatch, add_watch
async def enable():
    store = await WorkerStore.open(f"sqlite:///{sys.argv[1]}")
    await store.write(add_watch, RunWatch("ops", server="another"), who="me", now=1.0)
    await store.close()
asyncio.run(enable())
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("protected"), umask=0o000)


@pytest.fixture(scope="module")
def has_run_code(machine):
    """Whether the files of the folder have run their code."""
    return make_hostile(machine)


@pytest.fixture(scope="module")
def up(machine, has_run_code):
    machine.given |= set(machine.home.iterdir())
    machine.run_code(ENABLE_ELSEWHERE, str(machine.database)).check_returncode()
    with machine.up("--auth", RESONANT_CONCURRENCY="7") as started:
        yield started


@pytest.fixture(scope="module")
def exported(up):
    """The worker has run a flow."""
    up.export()


@pytest.fixture
def password_file(machine):
    return machine.home / ".resonant" / "prefect-password"


def test_the_api_requires_the_password(up):
    with patient_client(f"{up.url}/api", event_hooks={}) as anybody:
        assert anybody.post(SECRETS, json={}).status_code == 401
    assert up.api.post(SECRETS, json={}).status_code == 200


def test_the_console_requires_the_password(up, password_file):
    url = re.search(r"^console +(\S+)$", up.said, re.MULTILINE)[1]

    def answer():
        with contextlib.suppress(httpx.TransportError):
            return patient.get(url)

    assert wait_until(answer).status_code == 401
    auth = ("Ada", password_file.read_text().partition(":")[2])
    assert patient.get(url, auth=auth).status_code == 200


def test_up_names_the_password_file_which_only_its_owner_can_read(up, password_file):
    assert f"password     the line in {password_file}" in up.said
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600


def test_every_listener_listens_on_loopback(up):
    connections = look_at(up.family, lambda one: one.net_connections("inet"))
    listening = [each.laddr for each in itertools.chain(*connections) if each.status == "LISTEN"]
    assert up.port in {address.port for address in listening}
    assert all(ipaddress.ip_address(address.ip).is_loopback for address in listening)


def test_commands_use_the_password_automatically(up, machine, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    address = f"http://localhost:{up.port}/api"  # a user may have set it
    machine.succeed("endpoint", "add", "crm", receiver.url, "--allow-private", PREFECT_API_URL=address)
    events = machine.write_events("events.jsonl", [EVENT])

    emitted = machine.succeed("emit", events, "--endpoint", "crm")

    assert emitted.stdout.startswith("1 delivered")
    assert "starting" not in emitted.stderr
    assert "crm" in machine.succeed("endpoint", "list").stdout
    refused = machine.run("enqueue", events, "--endpoint", "cmr")
    assert refused.returncode == 2
    assert "no endpoint is named 'cmr'" in refused.stderr


@pytest.fixture
def elsewhere(tmp_path, up):
    """A machine without the files of ``up``."""
    found = Machine(tmp_path, f"{up.url}/api")
    found.write_events("events.jsonl", [EVENT])
    return found


@pytest.mark.parametrize(
    ("command", "password"),
    [("emit events.jsonl --endpoint billing", "admin:wr0ng"), ("endpoint list", ""), ("emit", "")],
    ids=["emit with another", "list without it", "emit without it"],
)  # fmt: skip
def test_a_command_without_the_password_fails_in_one_line(up, elsewhere, password, command):
    elsewhere.variables["PREFECT_API_AUTH_STRING"] = password
    refused = elsewhere.do(*command.split(), code=1)
    assert refused.stderr.splitlines()[-1] == (
        f"resonant: the Prefect server at http://127.0.0.1:{up.port}/api refuses the credentials (401): "
        "PREFECT_API_AUTH_STRING must equal the server's PREFECT_SERVER_API_AUTH_STRING, USER:PASSWORD"
    )
    assert "wr0ng" not in refused.stdout + refused.stderr


def test_a_command_that_has_the_password_in_its_environment_works(elsewhere, password_file, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    elsewhere.variables["PREFECT_API_AUTH_STRING"] = password_file.read_text().strip()
    elsewhere.do("emit", "events.jsonl", "--endpoint", receiver.url, "--allow-private")
    assert len(receiver.journal) == 1


def test_the_bootstrap_uses_the_password_and_removes_nothing_beside_the_worker_of_up(up, machine):
    done = subprocess.run(
        [sys.executable, "-m", "deployments.bootstrap", "--remove", "--yes"],
        cwd=PROJECT,
        env=machine.environment | {"PREFECT_API_URL": f"{up.url}/api"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("the worker resonant-up of the work pool resonant is online")


def content(path: Path) -> bytes:
    """Return the content of a file, or nothing if Prefect has removed it."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


@pytest.mark.usefixtures("exported")
def test_the_password_is_in_no_argument_log_or_record(up, machine, password_file):
    secret = password_file.read_text().partition(":")[2].strip()
    assert len(secret) >= 32
    arguments = look_at(up.family, psutil.Process.cmdline)
    assert secret not in str(arguments)
    assert [each[1:] for each in arguments].count(["-m", "deployments.server"]) == 1
    assert secret.encode() not in everything_on(f"{up.url}/api", auth=up.api.auth)
    written = [path for path in machine.home.rglob("*") if path.is_file() and path != password_file]
    holders = [path for path in written if secret.encode() in content(path)]
    # Prefect's worker writes the environment of a run that it starts, for as long as the run lasts.
    assert [path for path in holders if machine.home / ".resonant" / "tmp" not in path.parents] == []
    assert secret not in up.said


def test_the_server_knows_only_the_settings_that_notifications_need(up):
    known = {name for name in up.find("deployments.server").environ() if name.startswith("RESONANT_")}
    assert known == {"RESONANT_DATABASE_URL", "RESONANT_HOME", "RESONANT_MAX_EVENT_BYTES"}


@pytest.mark.usefixtures("exported")
def test_nothing_that_up_and_its_runs_write_is_open_to_others(machine):
    modes = machine.modes(whole=True)
    assert {
        "up.json",
        "up.lock",
        "prefect-server.log",
        "prefect-worker.log",
        "prefect-start.lock",
    } <= modes.keys()
    assert {".prefect/prefect.db", "metrics/resonant.prom"} <= modes.keys()
    assert any(name.startswith(".cache/matplotlib/") for name in modes)
    assert open_to_others(modes) == {}


def test_the_worker_and_its_runs_write_temporary_files_into_a_private_folder(up, machine):
    folder = Path(up.find(*WORKER).environ()["TMPDIR"])
    assert folder.parent == machine.home / ".resonant" / "tmp"
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)} == {0o700}


@pytest.mark.usefixtures("exported")
def test_up_and_the_runs_of_its_worker_ignore_the_settings_in_its_folder(has_run_code):
    assert not has_run_code()


@pytest.mark.program
@pytest.mark.usefixtures("chromium")
def test_the_line_of_the_file_logs_in_to_the_ui(up, password_file):
    with tab() as page:
        page.goto(up.url)
        page.wait_for_url("**/login?*")
        page.get_by_placeholder("admin:pass").fill(password_file.read_text())
        page.get_by_role("button", name="Login").click()
        with page.expect_response(lambda answer: "/api/" in answer.url and answer.ok):
            page.wait_for_url("**/dashboard?*")


def test_another_ctrl_c_kills_everything_at_once(up):
    family = up.family
    up.process.send_signal(signal.SIGINT)
    *said, line = up.noted_until("stopping")
    assert sum(each.startswith("failed runs are not reported") for each in said) == 1
    assert line.startswith("stopping")
    assert "at most 50 s in all; another Ctrl-C kills everything" in line
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(STOP_SECONDS) == 130
    assert not alive(family)
