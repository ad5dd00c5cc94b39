"""An installed wheel, in an empty folder with an empty home: the quickstarts and every command work, and the installation
stays as it is."""

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from resonant.local.health import is_healthy
from resonant.local.server import api_url_at
from support.machine import STOP_SECONDS, Machine
from support.pages import PROJECT, Page, blocks_of
from support.ports import free_port
from support.prefect import forget_server, patient_client, post_until
from support.prefect_database import give_prefect_database
from support.processes import alive, family
from support.reader import FORGET, Reader, follow_http, follow_quickstart, follow_readme
from support.waiting import wait_until
from support.wheel import build, clone, install, new_environment

# Servers, workers and commands in processes are those of the wheel; `do`, `read` and `save_endpoint` run this checkout.
pytestmark = [pytest.mark.engine, pytest.mark.own_server, pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "spool_sink"
EVENT = '{"type": "com.example.paid", "source": "/shop", "data": {"n": 1}}\n'
SAVE_SPOOL = "from spool_sink import SpoolEndpoint; SpoolEndpoint(folder={folder!r}).save({name!r})"
LEAVE_TRACE = """
import os, pathlib
user = "run" if os.environ.get("PREFECT__FLOW_RUN_ID") else "command"
pathlib.Path(__file__).with_name(f"by-{user}").touch()
"""
STORED = "SELECT event_type, endpoint FROM resonant_deliveries JOIN resonant_events e ON e.key = event_key"


@dataclass
class Installation(Machine):
    """A machine whose commands are those of another environment.

    Attributes:
        binaries: the programs of that environment.
    """

    binaries: Path = field(kw_only=True)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.binaries}{os.pathsep}{os.environ['PATH']}"
        return super().environment | {"PATH": path, "TMPDIR": str(self.binaries.parent), "COLUMNS": "200"}

    def _popen(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        return super()._popen([str(self.binaries / "python"), *command[1:]], **options)

    def _run(self, command: list[str], *arguments: Any) -> subprocess.CompletedProcess[str]:
        return super()._run([str(self.binaries / "python"), *command[1:]], *arguments)


@dataclass
class NewUser(Installation):
    """An installation with the default folders."""

    @property
    def environment(self) -> dict[str, str]:
        folders = {f"{name}_HOME": str(self.home / f".{name.lower()}") for name in ("RESONANT", "PREFECT")}
        return super().environment | folders

    def prepare(self) -> None:
        give_prefect_database(self.home / ".prefect")


@pytest.fixture(scope="module")
def binaries(tmp_path_factory):
    """The programs of an environment with the wheel and the example of a sink in its own package."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(clone(folder / "checkout"), folder / "dist")
    programs = new_environment(folder / "environment")
    install(programs, wheel)
    install(programs, build(EXAMPLE, folder / "example"))
    return programs


@pytest.fixture(scope="module")
def before(binaries):
    """The installed files before the first command."""
    return files(binaries)


@pytest.fixture(scope="module")
def installed(binaries, before, tmp_path_factory):
    return NewUser(tmp_path_factory.mktemp("home"), binaries=binaries)


@pytest.fixture(scope="module")
def intake():
    """The port for events over HTTP."""
    return str(free_port())


@pytest.fixture(scope="module")
def up(installed, intake):
    with installed.up("--serve", intake) as started:
        yield started


@pytest.fixture(scope="module")
def served(up, installed):
    """The installation with the server of `up`, for commands that run in this process."""
    return replace(installed, prefect_api=f"{up.url}/api")


@pytest.fixture
def reader(up, intake, installed):
    """A reader of the quickstarts, whose commands use the default folders."""
    environment = installed.environment
    for name in ("RESONANT_HOME", "PREFECT_HOME"):
        del environment[name]
    reader = Reader(up, intake, environment)
    yield reader
    reader.stop_receiver()


@pytest.fixture(scope="module")
def spool(up, installed, tmp_path_factory):
    """The folder of a saved endpoint of the example."""
    types = up.api.post("/block_types/filter", json={}).json()
    assert "spool-endpoint" in {each["slug"] for each in types}, "`resonant up` registers it"
    folder = tmp_path_factory.mktemp("spool")
    code = SAVE_SPOOL.format(folder=str(folder), name="mine")
    saved = installed.run_code(code, PREFECT_API_URL=f"{up.url}/api")
    assert saved.returncode == 0, saved.stderr
    return folder


def files(binaries: Path) -> dict[str, int]:
    """Return the installed files, each with the time when it was written."""
    [packages] = binaries.parent.glob("lib/python*/site-packages")
    return {
        str(path): path.stat().st_mtime_ns
        for path in (packages / "resonant").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_commands_and_flows_are_those_of_the_wheel(up, installed):
    located = installed.run_code("import resonant.cli; print(resonant.cli.__file__)")
    assert f"{installed.binaries.parent}/lib" in located.stdout
    helped = subprocess.run(
        ["resonant", "--help"],
        env=installed.environment,
        cwd=installed.home,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "replay" in helped.stdout
    [shown] = [line.split()[1] for line in up.said.splitlines() if line.startswith("flows")]
    assert shown.startswith(f"{installed.binaries.parent}/lib")
    assert shown.endswith("/resonant/_project")


def test_the_quickstarts_deliver_events_survive_an_outage_and_replay_a_dead_letter(reader, served):
    follow_readme(reader)
    follow_quickstart(reader)
    for forgetting in FORGET:
        served.do(*forgetting.split())
    follow_http(reader)


def test_a_failed_run_is_reported_after_the_commands_of_the_how_to_page(
    up, installed, served, start_receiver
):
    receiver = start_receiver("resonant.testing:always_ok")
    served.save_endpoint("operations", receiver.url)
    said, _ = shell(installed, code_of("webhook-when-a-flow-fails.md", "An automation", "sh")).communicate()
    assert "operations gets failed, crashed and late runs of every flow" in said
    flow_id = up.api.post("/flows/", json={"name": "import-orders"}).json()["id"]
    failed = {"flow_id": flow_id, "state": {"type": "FAILED"}}
    up.api.post("/flow_runs/", json=failed)

    [entry] = wait_until(lambda: receiver.journal, 180)
    assert entry["headers"]["ce-type"] == "prefect.flow-run.failed"
    assert entry["headers"]["ce-subject"] == "import-orders"


def test_a_sink_of_another_package_takes_events_by_the_command_and_by_the_worker(up, installed, spool):
    installed.succeed("emit", "-", "--endpoint", "spool-endpoint/mine", typed=EVENT)
    assert [path.read_text() for path in spool.glob("*.json")] == ['{"n":1}']
    installed.succeed("enqueue", "-", "--endpoint", "spool-endpoint/mine", typed=EVENT)
    wait_until(lambda: len(list(spool.glob("*.json"))) == 2)


def test_a_missing_package_is_one_line_and_a_setting_can_name_its_module(up, spool, tmp_path):
    without = Machine(tmp_path, f"{up.url}/api")
    (without.home / "event.jsonl").write_text(EVENT)
    emit = ("emit", "event.jsonl", "--endpoint", "spool-endpoint/mine")
    done = without.run(*emit)  # another test may have imported the package in this process
    assert done.returncode == 1
    assert "name its module in RESONANT_SINKS" in done.stderr
    before = len(list(spool.glob("*.json")))
    without.succeed(*emit, RESONANT_SINKS="spool_sink", PYTHONPATH=str(EXAMPLE))
    assert len(list(spool.glob("*.json"))) == before + 1


def test_nothing_was_written_into_the_installation(up, installed, before):
    installed.succeed("export")
    assert files(installed.binaries) == before


def test_a_command_in_the_folder_of_a_copied_project_uses_its_flows(up, binaries, tmp_path, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    copy = copied_project(Installation(tmp_path, binaries=binaries, prefect_api=f"{up.url}/api"))
    copy.save_endpoint("from-copy", receiver.url)
    assert not users(copy)
    copy.succeed("emit", "-", "--endpoint", "from-copy", typed=EVENT)
    assert len(receiver.journal) == 1
    assert users(copy) == {"command"}


def copied_project(machine: Installation) -> Installation:
    """Return a machine whose working folder is a copy of the project, with a flow that leaves a trace."""
    machine.succeed("init", "our-flows")
    folder = machine.home / "our-flows"
    flow = folder / "flows" / "emit.py"
    flow.write_text(flow.read_text() + LEAVE_TRACE)
    return Installation(folder, machine.prefect_api, binaries=machine.binaries)


def users(copy: Installation) -> set[str]:
    """Return which processes have loaded the flow: a command, and the runs of a worker."""
    return {path.name.removeprefix("by-") for path in (copy.home / "flows").glob("by-*")}


@pytest.fixture(scope="module")
def project(binaries, tmp_path_factory):
    """A project with flows, a package ``blocks`` and a Prefect server of its own, in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "blocks").mkdir()
    (folder / "blocks" / "__init__.py").touch()
    port = free_port()
    machine = Installation(folder, api_url_at(port), binaries=binaries)
    machine.prepare()
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    server = machine._popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: is_healthy(machine.prefect_api), 120, every=0.5)
    yield machine
    forget_server(machine.prefect_api)
    server.terminate()
    server.wait(STOP_SECONDS)


def code_of(page: str, heading: str, language: str, number: int = 0) -> str:
    """Return code of a section of a page, which has at most ten lines."""
    text = Page(PROJECT / "docs" / "how-to" / page).section(heading)
    code = [each.text for each in blocks_of(text) if each.language == language][number]
    assert len([line for line in code.splitlines() if line]) <= 10
    return code


def python_of(page: str, heading: str) -> str:
    return code_of(page, heading, "python")


def shell(project: Installation, code: str, **options: Any) -> subprocess.Popen[str]:
    """Start the shell with code of a page; the commands are those of the installation, and the server is the project's."""
    # The environment sees Prefect's package, but not its script.
    code = code.replace("\nprefect worker", "\nexec python -m prefect worker")
    code = code.replace("http://127.0.0.1:4200/api", project.prefect_api)
    return Machine._popen(project, ["bash", "-ec", code], **options)


@pytest.fixture(scope="module")
def worker(project, tmp_path_factory):
    """A worker in the folder of a copied project, with the deployments, as the page says."""
    copy = copied_project(project)
    code = code_of("prefect-server.md", "Set up the server", "sh", 1)
    variables = {"TMPDIR": str(tmp_path_factory.mktemp("worker"))}
    with (project.home / "worker.log").open("w") as log:
        process = shell(project, code, env=project.environment | variables, stdout=log, stderr=log)
    yield process, copy
    for each in alive(family(process)) if process.poll() is None else []:
        each.kill()
    process.wait()


def flow_runs(project: Installation, name: str) -> dict[str, str]:
    """Return the states of the flow runs with this name, by id."""
    query = {"flow_runs": {"name": {"like_": name}}}
    with patient_client(project.prefect_api) as api:
        return {each["id"]: each["state_name"] for each in api.post("/flow_runs/filter", json=query).json()}


def test_a_project_of_its_own_stores_events_by_tasks_blocks_hooks_and_automations(project):
    nowhere = {"url": "http://127.0.0.1:9", "allow_private": True}
    endpoints = [nowhere | {"name": name} for name in ("reports", "operations")]
    (project.home / "endpoints.json").write_text(json.dumps({"endpoints": endpoints}))
    project.succeed("endpoint", "import", "endpoints.json")
    register = [sys.executable, "-m", "prefect", "block", "register", "-m", "resonant.blocks"]
    registered = project._run(register, "", 120, {})
    assert registered.returncode == 0, registered.stdout

    ran = project.run_code(
        python_of("in-your-prefect-flow.md", "The task `emit`")
        + python_of("in-your-prefect-flow.md", "An endpoint's block")
        + code_of("in-your-prefect-flow.md", "An endpoint's block", "python", 1)
        + python_of("webhook-when-a-flow-fails.md", "A hook").replace("...", "raise ValueError")
        + python_of("blocks.md", "Make notifications reliable")
        + "import asyncio; nightly_sales(); nightly_report(); asyncio.run(report(66)); import_orders(return_state=True)"
    )
    assert ran.returncode == 0, ran.stderr

    notification = ("prefect.notification", "operations")

    def stored() -> Counter[tuple[str, str]]:
        return Counter((each["event_type"], each["endpoint"]) for each in project.query(STORED))

    with patient_client(project.prefect_api) as api:
        saved = api.get("/block_types/slug/resonant-notification/block_documents/name/failures").json()
        trigger = {"type": "event", "posture": "Reactive", "expect": ["failed"], "threshold": 1, "within": 0}
        action = {"type": "send-notification", "block_document_id": saved["id"], "body": "It failed."}
        api.post("/automations/", json={"name": "notify", "trigger": trigger, "actions": [action]})
        _, posted = post_until(api, lambda: notification in stored(), "failed")

    found = stored()
    assert 1 <= found.pop(notification) <= posted
    assert found == {
        ("com.example.sales.counted", "reports"): 3,
        ("prefect.flow-run.failed", "operations"): 1,
    }


def test_a_worker_in_the_folder_of_a_copied_project_uses_its_flows(worker):
    _, copy = worker
    wait_until(lambda: "run" in users(copy), 180)


def test_a_known_cause_is_acknowledged(project, start_receiver):
    receiver = start_receiver("support.receiver_scripts:mixed")
    project.save_endpoint("rejecting", receiver.url)
    rejected = {"type": "com.example.rejected", "source": "/shop"}
    project.do("emit", project.write_events("rejected.jsonl", [rejected]), "--endpoint", "rejecting", code=1)

    [cause] = project.read("dlq", "--group", "--endpoint", "rejecting")
    code = code_of("dead-letters.md", "Acknowledge a known cause", "sh").replace(
        "CAUSE", cause["fingerprint"]
    )
    ack, undo = (shlex.split(line)[1:] for line in code.splitlines())
    project.do(*ack)
    [cause] = project.read("dlq", "--group", "--endpoint", "rejecting")
    assert cause["acknowledged"]["note"] == "fixed in release 42"
    project.do(*undo)
    assert project.read("dlq", "--group", "--endpoint", "rejecting")[0]["acknowledged"] is None


@pytest.mark.skipif(os.environ.get("RESONANT_CHAOS") != "long", reason="two minutes: RESONANT_CHAOS=long")
def test_the_runs_of_a_killed_worker_are_crashed_within_two_minutes(project, worker):
    def running() -> set[str]:
        states = flow_runs(project, "drain")
        return {run for run, state in states.items() if state == "Running"}

    runs = wait_until(running, 180, every=0.5)
    for each in family(worker[0]):
        each.kill()
    wait_until(lambda: not runs & running(), 120, every=1)
    states = flow_runs(project, "drain")
    assert {states[run] for run in runs} == {"Crashed"}
