"""``resonant up --auth``: a generated password, which commands use automatically and nobody else knows.

Its folder is hostile, see test_hostile_folder.py, and its store has an automation of another server. The last test ends it by two interrupts.
"""

import asyncio
import contextlib
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from resonant.store import WorkerStore
from resonant.store.shared.run_watches import RunWatch, add_watch
from support.browser import tab
from support.hostile_folder import make_hostile
from support.machine import Machine
from support.pages import PROJECT
from support.prefect import everything_on, patient_client
from support.processes import alive, look_at

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SECRETS = "/block_documents/filter"
EVENT = {"type": "t", "source": "/s", "data": 1}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("protected"))


@pytest.fixture(scope="module")
def has_run_code(machine):
    """Whether the files of the folder have run their code."""
    return make_hostile(machine)


@pytest.fixture(scope="module")
def elsewhere(machine):
    async def enable() -> None:
        store = await WorkerStore.open(f"sqlite:///{machine.database}")
        await store.write(add_watch, RunWatch("ops", server="another"), who="me", now=1.0)
        await store.close()

    machine.prepare()
    asyncio.run(enable())


@pytest.fixture(scope="module")
def up(machine, has_run_code, elsewhere):
    with machine.up("--auth") as started:
        yield started


@pytest.fixture(scope="module")
def exported(up):
    """The worker has run a flow."""
    up.export()


@pytest.fixture
def password_file(machine):
    return machine.home / "resonant" / "prefect-password"


def test_the_api_requires_the_password(up):
    with patient_client(f"{up.url}/api", event_hooks={}) as anybody:
        assert anybody.post(SECRETS, json={}).status_code == 401
    assert up.api.post(SECRETS, json={}).status_code == 200


def test_up_names_the_password_file_which_only_its_owner_can_read(up, password_file):
    assert f"password     the line in {password_file}" in up.said
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600


def test_commands_use_the_password_automatically(up, machine, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    for address in ("127.0.0.1", "localhost"):  # a user may have set it
        added = machine.succeed(
            "endpoint",
            "add",
            f"crm-{address[0]}",
            receiver.url,
            "--allow-private",
            PREFECT_API_URL=f"http://{address}:{up.port}/api",
        )
        assert added.stdout.startswith("saved")
    events = machine.write_events("events.jsonl", [EVENT])

    emitted = machine.succeed("emit", events, "--endpoint", "crm-1")

    assert emitted.stdout.startswith("1 delivered")
    assert "starting" not in emitted.stderr
    assert "crm-1" in machine.succeed("endpoint", "list").stdout
    assert "balanced: yes" in machine.succeed("status").stdout
    refused = machine.run("enqueue", events, "--endpoint", "crm-2")
    assert refused.returncode == 2
    assert "no endpoint is named 'crm-2'" in refused.stderr


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
    assert secret not in str(look_at(up.family, psutil.Process.cmdline))
    assert secret.encode() not in everything_on(f"{up.url}/api", auth=up.api.auth)
    written = [path for path in machine.home.rglob("*") if path.is_file() and path != password_file]
    holders = [path for path in written if secret.encode() in content(path)]
    # Prefect's worker writes the environment of a run that it starts, for as long as the run lasts.
    assert [path for path in holders if machine.home / "resonant" / "tmp" not in path.parents] == []
    assert secret not in up.said


@pytest.mark.usefixtures("exported")
def test_up_and_the_runs_of_its_worker_ignore_the_settings_in_its_folder(has_run_code):
    assert not has_run_code()


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
    said = []
    while not (line := up.process.stderr.readline()).startswith("stopping"):
        assert line, "it ended"
        said.append(line)
    assert sum(each.startswith("failed runs are not reported") for each in said) == 1
    assert "at most 40 s in all; another Ctrl-C kills everything" in line
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(timeout=60) == 130
    assert not alive(family)
