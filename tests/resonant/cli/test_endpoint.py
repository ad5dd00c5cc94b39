"""``endpoint list`` and ``endpoint remove``, on a real Prefect server."""

from __future__ import annotations

import asyncio
import json

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import FileEndpoint, WebhookEndpoint

pytestmark = pytest.mark.engine

NAMES = ("cli-broken", "cli-hooks", "file-endpoint/cli-log")
PROBLEM = "endpoint 'cli-broken' is not configured completely: save it again"


@pytest.fixture
def endpoints(prefect_api, monkeypatch, resonant, tmp_path):
    """An endpoint of each block type, and one that lost its URL; other tests have theirs on the same server."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)

    async def save():
        url = SecretStr("https://hooks.example.com/in?key=t0ken")
        await WebhookEndpoint(url=url).asave("cli-hooks")
        await FileEndpoint(path=tmp_path / "log").asave("cli-log")
        broken = await WebhookEndpoint(url=url).asave("cli-broken")
        async with get_client() as client:
            update = BlockDocumentUpdate(data={}, merge_existing_data=False)
            await client.update_block_document(broken, update)

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        asyncio.run(save())
    yield
    for name in NAMES:
        resonant.program("endpoint", "remove", name, "--yes")


def rows(answer) -> list[str]:
    return [line for line in answer.splitlines() if "cli-" in line]


def test_the_list_shows_endpoints_of_every_type_and_what_is_wrong_with_a_broken_one(resonant, endpoints):
    done = resonant.program("endpoint", "list")

    assert done.returncode == 0, done.stderr
    header, *_ = done.stdout.splitlines()
    assert header.split() == ["NAME", "TO", "SIGNED", "STATE"]
    broken, hooks, log = rows(done.stdout)
    assert log.split()[:2] == ["file-endpoint/cli-log", "file-endpoint"]
    assert hooks.split() == ["cli-hooks", "https://hooks.example.com", "no", "ok"]
    assert broken.split()[-3:] == ["cannot", "be", "used"]
    assert f"endpoint cli-broken cannot be used: {PROBLEM}\n" in done.stderr
    assert "t0ken" not in done.stdout + done.stderr


def test_the_list_as_json_says_the_problem_in_its_place(resonant, endpoints):
    done = resonant.program("endpoint", "list", "--json")

    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert found["cli-broken"] == {"name": "cli-broken", "problem": PROBLEM}
    assert (found["cli-hooks"]["type"], found["cli-hooks"]["url"]) == ("webhook-endpoint", "set")
    assert found["file-endpoint/cli-log"]["type"] == "file-endpoint"


def test_a_test_event_has_its_outcome_as_json(resonant, endpoints, tmp_path):
    done = resonant.program("endpoint", "test", "file-endpoint/cli-log", "--json")

    said = json.loads(done.stdout)
    assert (done.returncode, said["endpoint"], said["result"]) == (0, "file-endpoint/cli-log", "delivered")


def test_a_broken_endpoint_is_removed_and_only_that_one(resonant, endpoints):
    done = resonant.program("endpoint", "remove", "cli-broken", "--yes")

    assert (done.returncode, done.stdout) == (0, "removed endpoint cli-broken\n"), done.stderr
    again = resonant.program("endpoint", "remove", "cli-broken", "--yes")
    assert again.returncode == 2
    assert "no endpoint is named 'cli-broken'" in again.stderr
    left = {row["name"] for row in json.loads(resonant.program("endpoint", "list", "--json").stdout)}
    assert left & set(NAMES) == {"cli-hooks", "file-endpoint/cli-log"}
