import os
import subprocess
import sys
from unittest.mock import patch
from uuid import uuid4

import pytest
from prefect.context import root_settings_context
from prefect.utilities.urls import url_for

from resonant.local.server import Server, _used
from resonant.testing import nobody_listening
from support.commands import restored_logging
from support.processes import clean_environment

SAYS = """
import logging
from resonant.local.prefect_log import hide_client_log, show_prefect_log
{call}
try:
    raise ConnectionError("no close frame received or sent")
except ConnectionError:
    logging.getLogger("websockets.client").error("keepalive ping failed", exc_info=True)
logging.getLogger("prefect.events.clients").warning("Unable to connect")
logging.getLogger("prefect._internal.concurrency").error("a service failed")
logging.getLogger("EventsWorker").warning("Still processing items")
logging.getLogger("resonant").warning("a sink is not available")
logging.getLogger("another").warning("a library says something")
"""
OF_OTHERS = ["a sink is not available", "a library says something"]
OF_PREFECT = ("keepalive ping failed", "Unable to connect", "a service failed", "Still processing items")
LOADS_A_BLOCK = """
import asyncio
from resonant.cli.command_store import load_endpoint
from resonant import blocks
async def load(name):
    from prefect.plugins import load_prefect_collections
    load_prefect_collections()
blocks.load_endpoint = load
hide_client_log()
asyncio.run(load_endpoint("file-endpoint/log"))
"""
LOSES_LOGS = """
import sys
from prefect.events import emit_event
from prefect.logging.handlers import APILogWorker, emit_api_log
from resonant.local.compatibility import drop_unsent_messages
from resonant.local.prefect_log import show_prefect_log
for verbose in (False, True):
    show_prefect_log(verbose=verbose)
    emit_event("resonant.test", {"prefect.resource.id": "resonant.test"})
    emit_api_log({"message": "a line"})
    APILogWorker.drain_all(at_exit=False)
    drop_unsent_messages()
    print("---", file=sys.stderr)
"""


def run(code, **variables):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=clean_environment() | variables,
    )
    return done.stderr


def messages(log):
    return [line.rpartition(" - ")[2] for line in log.splitlines()]


def test_a_command_without_flows_shows_the_logs_of_others_and_hides_those_of_prefect():
    assert messages(run(SAYS.format(call=LOADS_A_BLOCK))) == OF_OTHERS


def test_a_command_with_flows_shows_the_logs_of_prefect_only_if_it_is_verbose():
    calls = [SAYS.format(call=f"show_prefect_log(verbose={verbose})") for verbose in (False, True)]
    shown = messages(run("".join(calls)))
    assert shown[:2] == OF_OTHERS
    assert {*OF_PREFECT, *OF_OTHERS} <= set(shown[2:])


@pytest.mark.slow
def test_only_a_verbose_command_reports_that_logs_cannot_be_sent(tmp_path):
    with nobody_listening() as url:
        said = run(LOSES_LOGS, PREFECT_API_URL=f"{url}/api", PREFECT_HOME=str(tmp_path))
    quiet, verbose, _ = said.split("---\n")
    assert quiet == ""
    assert "failed to process batch" in verbose


def test_the_log_has_no_links_to_a_temporary_server_without_ui():
    server = Server("http://127.0.0.1:9/api", is_temporary=True)
    with (
        patch.dict(os.environ),
        restored_logging(),
        _used(server, runs_flows=True, verbose=True),
        root_settings_context(),
    ):
        assert url_for("flow-run", uuid4()) is None
