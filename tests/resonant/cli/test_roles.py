"""The users of PostgreSQL in docs/how-to/who-may-do-what.md can do their work and no more."""

import asyncio
import re
from pathlib import Path

import asyncpg
import httpx
import pytest

from resonant.events import Event
from resonant.store import open_store
from support.serving import add_endpoints, create_token, route_everything, serving
from support.waiting import PATIENCE_SECONDS

PAGE = Path(__file__).parents[3] / "docs/how-to/who-may-do-what.md"
ROLES = ("events_reader", "events_intake")
READING = ("status", "dlq", "deliveries", "detail e1", "metrics", "audit", "token list", "subscription list")
EVENT = {"specversion": "1.0", "id": "e2", "source": "/shop", "type": "order.paid", "data": 1}
CLOUDEVENT = {"Content-Type": "application/cloudevents+json"}


async def fill(url):
    async with open_store(url) as store:
        await store.enqueue([Event(id="e1", type="order.paid", source="/shop", data=1)], "billing")


async def execute(url, statement):
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def urls(postgresql, postgresql_url):
    """A store with an event, and the URLs of the users on the page."""
    add_endpoints(postgresql_url, "billing", "crm")
    route_everything(postgresql_url, "billing")
    asyncio.run(fill(postgresql_url))
    for statements in re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        for statement in statements.split(";")[:-1]:
            postgresql.execute(statement, "test")
    yield {name: postgresql.url("test", user=name, password="change-me") for name in ROLES} | {
        "owner": postgresql_url
    }
    for name in ROLES:
        postgresql.execute(f"DROP OWNED BY {name}", "test")
        postgresql.execute(f"DROP ROLE {name}", "test")


def refusal(table):
    return f"postgresql://events_reader:***@/test: permission denied for table {table}: use a user with "


def test_a_reader_can_look_and_any_change_is_refused_in_one_line(resonant, monkeypatch, urls):
    monkeypatch.setenv("RESONANT_DATABASE_URL", urls["events_reader"])
    for command in READING:
        resonant(*command.split())
    assert resonant.json("status")["accepted"] == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="resonant_schema"):
        asyncio.run(execute(urls["events_reader"], "SELECT erasure_key FROM resonant_schema"))
    for command, table in (
        ("cancel e1", "resonant_audit"),
        ("endpoint pause billing", "resonant_gates"),
        ("token create shop", "resonant_tokens"),
    ):
        assert resonant.refused(*command.split()).startswith(refusal(table))


@pytest.mark.engine
def test_a_replay_by_a_reader_is_refused_in_one_line(resonant, monkeypatch, urls, on_server):
    monkeypatch.setenv("RESONANT_DATABASE_URL", urls["events_reader"])
    [line] = resonant.on_prefect("replay", "--all", code=1).err.splitlines()
    assert line.startswith(f"resonant: {refusal('resonant_audit')}")


@pytest.mark.engine
def test_prefect_shows_secrets_to_everyone_who_asks_for_them(prefect_api, webhook):
    wanted = {"block_documents": {"name": {"any_": [webhook("crm")]}}}
    url = f"{prefect_api}/block_documents/filter"
    asked = [
        httpx.post(url, json=wanted | more, timeout=PATIENCE_SECONDS).text
        for more in ({}, {"include_secrets": True})
    ]
    assert ["t0ken" in text for text in asked] == [False, True]


def test_the_intake_can_store_events_and_neither_change_nor_remove_one(postgresql, urls, tmp_path):
    token = create_token(urls["owner"], tmp_path, "shop", "--read")
    headers = {"Authorization": f"Bearer {token}"}
    with (
        serving(urls["events_intake"], tmp_path) as server,
        httpx.Client(base_url=server.url, headers=headers, timeout=PATIENCE_SECONDS) as http,
    ):
        for event, query, status in (
            (EVENT, "", 202),
            (EVENT, "", 202),
            (EVENT, "?endpoint=crm", 202),
            (EVENT | {"data": 2}, "", 409),
            (EVENT | {"id": "e1"}, "", 202),
        ):
            answer = http.post(f"/events{query}", json=event, headers=CLOUDEVENT)
            assert answer.status_code == status, answer.text
        assert http.get("/events/%2Fshop/e2").json()["deliveries"]
    [row] = postgresql.execute("SELECT last_used_at FROM resonant_tokens", "test")
    assert row["last_used_at"] is not None
    for statement in (
        "UPDATE resonant_events SET body = ''",
        "DELETE FROM resonant_events",
        "DELETE FROM resonant_deliveries",
        "UPDATE resonant_deliveries SET status = 'delivered'",
        "UPDATE resonant_tokens SET revoked_at = NULL",
        "INSERT INTO resonant_audit DEFAULT VALUES",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for table"):
            asyncio.run(execute(urls["events_intake"], statement))
