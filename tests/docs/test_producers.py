"""The producers in JavaScript and Go store their event once, however often they have to repeat it."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from itertools import pairwise

import pytest

from resonant.testing import Receiver, respond
from support.pages import PROJECT, Page
from support.programs import find, need
from support.sdks import installed
from support.serving import add_endpoints, run_command, serving

pytestmark = pytest.mark.program

EXAMPLES = PROJECT / "examples"
TOKEN = "rsn_of_a_test"
STORED = {"id": "order-42-paid", "source": "/shop", "duplicate": False, "endpoints": ["crm", "shop"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose store has one endpoint, ``shop``, for every event; it needs no token."""
    folder = tmp_path_factory.mktemp("serve")
    store_url = f"sqlite:///{folder}/resonant.db"
    add_endpoints(store_url, "shop")
    run_command(store_url, folder, "subscription", "add", "shop", "*")
    with serving(store_url, folder, "--no-auth") as server:
        yield server


@pytest.fixture(params=["producer.mjs", "producer.go"])
def producer(request, tmp_path):
    """The command of a producer."""
    if request.param == "producer.mjs":
        return [need("node"), EXAMPLES / request.param]
    # CI does not install Go: it is large.
    go = find("go") or pytest.skip("this test needs go: apt-get install golang-go")
    program = tmp_path / "producer"
    subprocess.run([go, "build", "-o", program, EXAMPLES / request.param], check=True)
    return [program]


def run(command, url, token=""):
    variables = {"EVENTS_URL": url, "EVENTS_TOKEN": token}
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )


async def run_against(script, command):
    """Run a producer against a server that answers by a script; return what it printed, and the requests."""
    async with Receiver(script) as server:
        return await asyncio.to_thread(run, command, server.url.rstrip("/"), TOKEN), server.journal


async def test_a_producer_repeats_its_request_until_the_event_is_stored(producer):
    answers = iter(
        [
            respond(503, {"retry-after": "1"}),
            respond(429, {"retry-after": "1"}),
            respond(202, body=json.dumps({"events": [STORED]}).encode()),
        ]
    )

    done, requests = await run_against(lambda _: next(answers), producer)

    assert done.stdout == "order-42-paid is stored, for crm, shop\n", done.stderr
    assert len(requests) == 3
    assert len({each.body for each in requests}) == 1
    assert requests[0].path == "/events"
    assert requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    times = [each.received_at for each in requests]
    assert all(later - earlier >= 1 for earlier, later in pairwise(times))


async def test_a_producer_does_not_repeat_a_request_that_is_refused(producer):
    done, requests = await run_against(
        lambda _: respond(422, body=b'{"detail": "no such endpoint"}'), producer
    )

    assert done.returncode == 1
    assert "no such endpoint" in done.stderr
    assert len(requests) == 1


def test_a_producer_that_is_started_again_stores_its_event_once(producer, server):
    said = {run(producer, server.url).stdout for _ in range(2)}
    # Both producers have the same event.
    assert "order-42-paid was stored before, for shop\n" in said
    assert said <= {"order-42-paid is stored, for shop\n", "order-42-paid was stored before, for shop\n"}


def test_the_cloudevents_sdk_for_javascript_makes_requests_that_are_accepted(server, tmp_path):
    node = need("node")
    (tmp_path / "node_modules").symlink_to(installed("node_modules"))
    shutil.copy(EXAMPLES / "producer_sdk.mjs", tmp_path)

    done = run([node, tmp_path / "producer_sdk.mjs"], server.url)

    status, _, answer = done.stdout.partition(" ")
    assert status == "202", done.stdout + done.stderr
    assert json.loads(answer)["events"][0]["endpoints"] == ["shop"]


@pytest.mark.parametrize("language", ["js", "go"])
def test_the_page_shows_the_programs_as_they_are(language):
    programs = [path.read_text() for path in EXAMPLES.glob("producer*")]
    page = Page(PROJECT / "docs" / "how-to" / "producers.md")
    shown = [block.text for block in page.blocks if block.language == language]
    assert shown
    assert all(any(block in text for text in programs) for block in shown)


def test_the_page_installs_each_package_that_its_programs_import():
    page = (PROJECT / "docs" / "how-to" / "producers.md").read_text()
    programs = "".join(path.read_text() for path in EXAMPLES.glob("producer*.mjs"))
    packages = {name for name in re.findall(r'from "([^"]+)"', programs) if not name.startswith("node:")}
    assert packages == {"cloudevents"}
    assert packages <= set(re.findall(r"^npm install (\S+)$", page, re.MULTILINE))
