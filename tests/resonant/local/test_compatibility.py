"""Prefect's private names: each is looked for at start, and works as Resonant expects."""

import asyncio
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from prefect import context
from prefect._internal.concurrency import services
from prefect.blocks.core import Block
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging import handlers
from prefect.results import ResultStore
from prefect.server.utilities.messaging import memory
from prefect.settings import PREFECT_API_URL, Settings, temporary_settings
from prefect.utilities.engine import capture_sigterm, is_prefect_sigterm_handler_installed

from resonant.errors import PrefectChanged
from resonant.local.compatibility import (
    CLIENT_NAMES,
    FLOW_NAMES,
    SERVER_NAMES,
    TESTED_PREFECT,
    _problem_of_settings,
    cancelled_by_sigterm,
    check_client_names,
    check_server_names,
    drop_unsent_messages,
    finish_sending_messages,
    send_logs_quietly,
)
from resonant.testing import Receiver, respond
from support.event_loops import LOOP_FACTORIES
from support.processes import clean_environment

PROJECT = Path(__file__).parents[3]
IMPORT = """
from resonant.errors import ResonantError
from resonant.local.compatibility import import_prefect
try:
    import_prefect()
except ResonantError as error:
    print(error)
"""
LINE = {"message": "a line", "name": "resonant", "level": 20, "timestamp": "2026-01-01T00:00:00Z"}


OF_CLIENT = [
    ("GLOBAL_SETTINGS_CONTEXT.settings", context, "GLOBAL_SETTINGS_CONTEXT"),
    ("_active_services", services, "_active_services"),
    *(
        (f"EventsWorker.{name}", EventsWorker, name)
        for name in ("_loop", "_done_event", "_queue", "instance", "drain_all")
    ),
    ("APILogWorker._handle_batch", handlers.APILogWorker, "_handle_batch"),
    ("set_api_log_sink", handlers, "set_api_log_sink"),
    ("ResultStore.create_result_record", ResultStore, "create_result_record"),
    ("Block._block_schema_id", Block, "_block_schema_id"),
]
OF_SERVER = [
    ("create_app", "prefect.server.api.server", "create_app"),  # a second of CPU in each process of the tests
    ("Publisher.publish_data", memory.Publisher, "publish_data"),
    *(
        (name, memory, name)
        for name in ("MemoryMessage", "Consumer", "break_topic", "ephemeral_subscription")
    ),
    ("Topic._subscriptions", memory.Topic, "_subscriptions"),
    ("Subscription._queue", memory.Subscription, "_queue"),
]


def lose(patch, owner, name):
    """Remove a name from a module, from a class and its bases, or from the instances of a class."""
    if isinstance(owner, str):
        owner = importlib.import_module(owner)
    if hasattr(owner, name):
        for each in getattr(owner, "__mro__", [owner]):
            if name in vars(each):
                patch.delattr(each, name)
        return
    constructor, active = owner.__init__, services._active_services

    def construct(self, *args, **kwargs):
        constructor(self, *args, **kwargs)
        delattr(self, name)
        active.discard(self)  # Prefect keeps a list of its services, which other tests use

    patch.setattr(owner, "__init__", construct)


def test_the_installed_prefect_is_tested_and_has_every_name():
    assert version("prefect") in SpecifierSet(TESTED_PREFECT)
    check_client_names()
    check_server_names()


def test_the_next_test_removes_every_name():
    assert {each.name for each in (*CLIENT_NAMES, *FLOW_NAMES)} == {name for name, *_ in OF_CLIENT}
    assert {each.name for each in SERVER_NAMES} == {name for name, *_ in OF_SERVER}


@pytest.mark.parametrize(
    ("check", "name", "owner", "attribute"),
    [
        *((check_client_names, *each) for each in OF_CLIENT),
        *((check_server_names, *each) for each in OF_SERVER),
    ],
)
def test_a_missing_name_is_reported_in_one_line_with_the_tested_releases(
    check, name, owner, attribute, monkeypatch
):
    with monkeypatch.context() as patch:
        lose(patch, owner, attribute)
        with pytest.raises(PrefectChanged) as changed:
            check()
    assert re.fullmatch(
        rf"Prefect {version('prefect')} has no {re.escape(name)}, which Resonant {version('resonant')} needs to "
        r"[a-z ]+: pip install 'prefect>=3\.9,<3\.10'",
        str(changed.value),
    )
    check()


OF_PROFILE = 'active = "a"\n[profiles.a]\nPREFECT_API_REQUEST_TIMEOUT = "soon"\n'
IN_PROFILE = "PREFECT_API_REQUEST_TIMEOUT in Prefect's profile or prefect.toml: must be a valid number"


@pytest.mark.parametrize(
    ("variables", "profiles", "line"),
    [
        ({"PREFECT_CLIENT_CUSTOM_HEADERS": "oops"}, "", "PREFECT_CLIENT_CUSTOM_HEADERS: not JSON"),
        ({}, OF_PROFILE, IN_PROFILE),
    ],
    ids=["variable", "profile"],
)
def test_a_malformed_setting_of_prefect_is_named(variables, profiles, line, tmp_path, monkeypatch):
    (tmp_path / "profiles.toml").write_text(profiles)
    for name, value in ({"PREFECT_HOME": str(tmp_path)} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"(?i)headers|timeout") as refused:
        Settings()
    assert _problem_of_settings(refused.value) == line


@pytest.mark.parametrize(
    ("level", "profiles", "line"),
    [
        ("odd", "", "PREFECT_LOGGING_LEVEL: must be 'DEBUG', "),
        ("INFO", "[broken", "a file of Prefect's settings, such as profiles.toml, is not TOML: "),
    ],
)
def test_malformed_settings_of_prefect_are_one_line(level, profiles, line, tmp_path):
    (tmp_path / "profiles.toml").write_text(profiles)
    variables = {"PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": level}
    command, environment = [sys.executable, "-c", IMPORT], clean_environment() | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(line)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_prefect_is_imported_without_a_standard_error():
    code = f"import sys; sys.stderr = None\n{IMPORT}print('imported')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "imported\n")


def test_no_other_module_uses_private_names_of_prefect():
    # The broker subclasses Prefect's, and says so in its first lines.
    allowed = {"src/resonant/local/compatibility.py", "deployments/broker.py"}
    private = re.compile(r"(from|import) prefect(\.\w+)*\._|(from|import) prefect\.server")
    found = set()
    for folder in ("src", "flows", "tasks", "blocks", "deployments", "benches"):
        for path in (PROJECT / folder).rglob("*.py"):
            text = path.read_text()
            uses_attributes = "noqa: SLF001" in text and re.search(r"(from|import) prefect\b", text)
            if private.search(text) or uses_attributes:
                found.add(str(path.relative_to(PROJECT)))
    assert found <= allowed


@pytest.mark.parametrize("loop_factory", LOOP_FACTORIES)
def test_sigterm_cancels_a_flow_run_once_and_raises_in_none_of_its_tasks(loop_factory, monkeypatch):
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid.uuid4()))
    ended = []

    async def work():
        with cancelled_by_sigterm():
            other = asyncio.create_task(send())
            try:
                await asyncio.sleep(60)
            finally:
                assert is_prefect_sigterm_handler_installed(), "or Prefect would not cancel the run"
                await other

    async def send():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.01)
        ended.append("sent")

    with capture_sigterm():
        before = signal.getsignal(signal.SIGTERM)
        with asyncio.Runner(loop_factory=loop_factory) as runner, pytest.raises(asyncio.CancelledError):
            runner.run(work())
        assert signal.getsignal(signal.SIGTERM) is before
        assert is_prefect_sigterm_handler_installed()
    assert ended == ["sent"]


@pytest.fixture
def silent_server():
    """The URL of a server that accepts connections and never answers: Prefect tries ten times, for ten seconds each."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/api"


@pytest.mark.parametrize("is_draining", [False, True])
def test_messages_that_cannot_be_sent_do_not_delay_the_end_of_the_process(silent_server, is_draining):
    finish_sending_messages()  # of other tests
    with temporary_settings({PREFECT_API_URL: silent_server}):
        for number in range(3):
            emit_event("resonant.test", {"prefect.resource.id": f"resonant.test.{number}"})
        worker = EventsWorker.instance()
        if is_draining:
            assert len(finish_sending_messages()) == 1
        began = time.monotonic()
        drop_unsent_messages()
        worker.drain()
    assert time.monotonic() - began < 50, "otherwise about two minutes"


async def test_the_quiet_service_sends_the_logs_that_prefects_own_would():
    def keep(request):
        if not request.path.endswith("/logs/"):
            return respond(404)
        kept.append((request.body, request.headers["content-type"]))
        return respond(201)

    kept = []
    async with Receiver(keep) as receiver:
        with temporary_settings({PREFECT_API_URL: f"{receiver.url}/api"}):
            try:
                for use in (lambda: None, send_logs_quietly):
                    use()
                    handlers.emit_api_log(LINE)
                    await handlers.APILogHandler.aflush()
            finally:
                handlers.set_api_log_sink(None)
    prefects, ours = kept
    assert prefects == ours
