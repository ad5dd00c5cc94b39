"""A user's machine in a folder, a running ``resonant up``, and receivers."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from support.browser import running_chromium, tab_of
from support.machine import Machine, Up
from support.ports import free_port
from support.prefect import forget_server, patient_client
from support.programs import need
from support.receivers import ReceiverProcess, started_receiver
from support.waiting import wait_until

UP_VARIABLES = {
    # Relative paths, since the worker runs in another folder.
    "RESONANT_HOME": "resonant",
    "RESONANT_DATABASE_URL": "sqlite:///resonant/resonant.db",
    "RESONANT_POLICIES": json.dumps({"once": {"max_attempts": 1}}),
    "RESONANT_ALERT_MIN_ATTEMPTS": "5",
}


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
                started.append(stack.enter_context(up_machine.up("--serve", str(free_port()))))
            return started[-1]

        yield ensure


@pytest.fixture
def up(ensure_up) -> Up:
    """A ``resonant up`` that the tests with the mark ``shared_up`` share, so each uses an endpoint of its own.

    If it has ended, the next test starts another.
    """
    return ensure_up()


@pytest.fixture
def user(up, up_machine) -> Machine:
    """The machine of ``up``, whose commands use its server without a search, also in this process."""
    user = replace(up_machine, prefect_api=f"{up.url}/api")
    yield user
    forget_server(user.prefect_api)


@pytest.fixture
def start_receiver(tmp_path):
    """Start a receiver with a script, ``module:function``, and environment variables."""
    with contextlib.ExitStack() as stack:

        def start(script: str, **environment: str) -> ReceiverProcess:
            return stack.enter_context(started_receiver(tmp_path, script, **environment))

        yield start


@pytest.fixture(scope="session")
def chromium():
    """The program; a test without it is skipped before anything else is started."""
    return need("chromium")


@pytest.fixture(scope="module")
def _rebinding():
    with running_chromium("--host-resolver-rules=MAP rebound.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def page(_rebinding):
    """A tab of a real browser that resolves rebound.example to 127.0.0.1."""
    with tab_of(_rebinding) as page:
        yield page


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
