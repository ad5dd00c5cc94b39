"""Commands with a Prefect that lacks a name Resonant uses: one line, and no traceback."""

from importlib.metadata import version

import pytest

from resonant.local.server import free_port
from support.machine import Machine

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
@pytest.mark.parametrize(
    ("changed", "name", "progress"),
    [
        (OF_CLIENT, "ResultStore.create_result_record", ["starting the Prefect server"]),
        (OF_SERVER, "break_topic", ["starting the Prefect server"]),
    ],
    ids=["the command", "the server"],
)
def test_up_ends(tmp_path, changed, name, progress):
    machine = Machine(tmp_path)
    machine.prepare()
    change_prefect(machine, *changed)
    done = machine.run("up", "--port", str(free_port()))
    assert_one_line(done, name, *progress)


@pytest.mark.slow
def test_a_command_that_starts_a_server_ends(tmp_path):
    machine = Machine(tmp_path)
    change_prefect(machine, *OF_SERVER)
    done = machine.run("endpoint", "list")
    assert_one_line(done, "break_topic", "starting a Prefect server for this command")
