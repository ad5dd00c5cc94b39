"""Flow runs use uvloop if it is installed. Other processes use asyncio."""

import asyncio
import os
import subprocess
import sys
import uuid

import pytest

from resonant.dispatch.run.event_loop import use_uvloop, use_uvloop_in_flow_run
from support.event_loops import UvLoop, needs_uvloop

pytestmark = needs_uvloop

_PRINT_LOOP = """
import asyncio, flows.emit
async def main(): print(type(asyncio.get_running_loop()).__name__)
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def own_policy(monkeypatch):
    # Both, so that the variable is removed after the test if the test sets it.
    monkeypatch.setenv("UV_THREADPOOL_SIZE", "1")
    monkeypatch.delenv("UV_THREADPOOL_SIZE")
    yield
    asyncio.set_event_loop_policy(None)


def is_uvloop():
    async def running():
        return isinstance(asyncio.get_running_loop(), UvLoop)

    return asyncio.run(running())


def test_a_flow_run_uses_uvloop(monkeypatch):
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid.uuid4()))
    use_uvloop_in_flow_run()
    assert is_uvloop()


def test_another_process_keeps_its_event_loop(monkeypatch):
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    use_uvloop_in_flow_run()
    assert not is_uvloop()


def test_without_uvloop_the_event_loop_is_that_of_asyncio(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.delitem(sys.modules, "resonant.dispatch.run.uv_loop", raising=False)
    use_uvloop()
    assert not is_uvloop()


def test_name_lookups_have_more_threads_than_by_default(monkeypatch):
    use_uvloop()
    assert os.environ["UV_THREADPOOL_SIZE"] == "32"
    monkeypatch.setenv("UV_THREADPOOL_SIZE", "3")
    use_uvloop()
    assert os.environ["UV_THREADPOOL_SIZE"] == "3", "a user's own value stays"


def test_importing_the_emission_flow_in_a_flow_run_selects_uvloop():
    environment = os.environ | {"PREFECT__FLOW_RUN_ID": str(uuid.uuid4())}
    ran = subprocess.run(
        [sys.executable, "-c", _PRINT_LOOP], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "UvLoop"
