"""A notification becomes an event in the store."""

import asyncio
import json

import pytest
from prefect.blocks.abstract import NotificationError
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from resonant.blocks import ResonantNotification, WebhookEndpoint
from resonant.store import open_store
from support.subscriptions import subscribe_in


@pytest.fixture
async def store(tmp_path, monkeypatch):
    """The store of the settings. No Prefect server is configured."""
    url = f"sqlite:///{tmp_path / 'events.db'}"
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    async with open_store(url) as opened:
        with temporary_settings(restore_defaults={PREFECT_API_URL}):
            yield opened


async def deliveries(store):
    query = "SELECT e.id, event_type, source, endpoint, body FROM resonant_deliveries JOIN resonant_events e ON e.key = event_key"
    rows = await store.read(lambda connection: connection.exec_driver_sql(query).fetchall())
    return {(each.event_type, each.source, each.endpoint, str(json.loads(each.body))) for each in rows}


async def test_a_notification_is_stored_for_the_endpoint_of_its_block(store):
    block = ResonantNotification(endpoint="ops", event_type="com.example.failed", source="/prod")
    await block.notify("It failed: \N{SNOWMAN}", subject="import")
    await block.notify("It failed: \N{SNOWMAN}", subject="import")
    said = {"subject": "import", "body": "It failed: \N{SNOWMAN}"}
    assert await deliveries(store) == {("com.example.failed", "/prod", "ops", str(said))}
    assert (await store.status()).accepted == 2, "each notification is an event"


async def test_synchronous_code_notifies_without_await(store):
    block = ResonantNotification(endpoint="ops")
    await asyncio.to_thread(block.notify, "It failed.")
    await asyncio.to_thread(lambda: asyncio.run(block.notify("It failed.")))
    assert (await store.status()).accepted == 2


async def test_without_an_endpoint_the_subscriptions_decide(store):
    await store.write(subscribe_in, "chat", "prefect.*")
    await ResonantNotification().notify("It failed.")
    said = {"subject": None, "body": "It failed."}
    assert await deliveries(store) == {("prefect.notification", "/prefect", "chat", str(said))}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "no subscription"),
        ({"endpoint": "Not A Name"}, "lower case letters"),
        ({"endpoint": "ops", "event_type": ""}, "type"),
        ({"endpoint": "ops", "event_type": "resonant.alert.raised"}, "reserved"),
    ],
)
async def test_a_notification_that_is_not_stored_raises_prefects_error_with_the_reason(
    store, fields, problem
):
    with pytest.raises(NotificationError, match=problem) as raised:
        await ResonantNotification(**fields).notify("It failed.")
    assert problem in raised.value.log, "Prefect shows it in the event of the failed action"
    assert (await store.status()).accepted == 0


@pytest.mark.engine
async def test_a_server_that_can_look_it_up_refuses_an_endpoint_that_does_not_exist(store, prefect_api):
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        await WebhookEndpoint(url=SecretStr("https://example.com")).asave("home", overwrite=True)
        await ResonantNotification(endpoint="home").notify("It failed.")
        with pytest.raises(NotificationError, match=r"^no endpoint is named 'hom': did you mean home\?"):
            await ResonantNotification(endpoint="hom").notify("It failed.")
    assert (await store.status()).accepted == 1


async def test_an_unusable_store_raises_prefects_error(tmp_path, monkeypatch):
    monkeypatch.setenv("RESONANT_DATABASE_URL", f"sqlite:///{tmp_path}")
    with pytest.raises(NotificationError, match=str(tmp_path)):
        await ResonantNotification(endpoint="ops").notify("It failed.")
