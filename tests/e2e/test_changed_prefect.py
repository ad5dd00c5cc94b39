"""Commands with a Prefect that lacks a name Resonant uses, or refuses the password: one line, and no traceback."""

from importlib.metadata import version

import pytest
from prefect.results import ResultStore

from resonant.local import stack
from resonant.local.parts import Parts
from support.machine import Machine
from support.ports import free_port
from support.sites import site

pytestmark = pytest.mark.engine

# Python imports the module of this name in every process that it starts.
SITE_CUSTOMIZE = """
import sys
if sys.orig_argv[1:3] == ["-m", "{program}"]:
    from {module} import {owner}
    del {owner}.{name}
"""
OF_CLIENT = ("resonant", "prefect.results", "ResultStore", "create_result_record")
OF_SERVER = ("deployments.server", "prefect.server.utilities.messaging", "memory", "break_topic")


def change_prefect(machine: Machine, program: str, module: str, owner: str, name: str) -> None:
    """Let every process of a machine that runs a program have a Prefect without this name."""
    folder = machine.home / "site"
    folder.mkdir()
    code = SITE_CUSTOMIZE.format(program=program, module=module, owner=owner, name=name)
    (folder / "sitecustomize.py").write_text(code)
    machine.variables["PYTHONPATH"] = str(folder)


def assert_one_line(done, name: str, *progress: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    *before, line = done.stderr.splitlines()
    assert [text.split(",")[0] for text in before] == list(progress)
    assert line.startswith(f"resonant: Prefect {version('prefect')} has no {name}, which Resonant ")
    assert line.endswith(": pip install 'prefect>=3.9,<3.10'")


def test_a_command_that_sends_stores_nothing(machine):
    change_prefect(machine, *OF_CLIENT)
    lines = machine.write_events("events.jsonl", [{"type": "order.paid", "source": "/s", "data": 1}])
    done = machine.run("emit", lines, "--endpoint", "https://hooks.example.com/")
    assert_one_line(done, "ResultStore.create_result_record")
    assert not machine.database.exists()


@pytest.mark.slow
def test_a_server_that_up_starts_ends(tmp_path):
    machine = Machine(tmp_path)
    machine.prepare()
    change_prefect(machine, *OF_SERVER)
    done = machine.run("up", "--port", str(free_port()))
    assert_one_line(done, "break_topic", "starting the Prefect server")


@pytest.fixture
def server_of_up(monkeypatch):
    """The address of a server in the place of that of ``up``, which refuses all credentials."""
    monkeypatch.setattr(stack, "_start", lambda _parts, _part: None)
    monkeypatch.setattr(Parts, "start", lambda _self, _part: None)
    monkeypatch.setattr(stack, "_check_free", lambda _option, _port: None)
    with site(b"{}", status=401) as found:
        yield found.url


def up(tmp_path, server):
    """Run ``up``, which ends in one line, in this process."""
    machine = Machine(tmp_path, f"{server}/api")
    return machine.do("up", "--port", server.rpartition(":")[2], code=1)


def test_up_ends_once_its_server_runs(tmp_path, server_of_up, monkeypatch):
    monkeypatch.delattr(ResultStore, "create_result_record")
    done = up(tmp_path, server_of_up)
    assert_one_line(done, "ResultStore.create_result_record", "starting the Prefect server")


def test_up_reports_that_only_its_server_has_the_password(tmp_path, server_of_up):
    done = up(tmp_path, server_of_up)
    assert "refuses the credentials (401)" in done.stderr.splitlines()[-1]
