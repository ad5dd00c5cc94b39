"""A run sends by the clock of its store."""

from pydantic import SecretStr

from resonant.blocks import WebhookEndpoint
from resonant.dispatch.caller import Caller, calling
from resonant.events import Event
from resonant.settings import load_settings
from resonant.store import WorkerStore
from resonant.testing import FixedClock, Receiver, respond
from tasks.wiring import open_dispatcher


async def test_a_machine_with_a_wrong_clock_signs_with_the_stores_time(sqlite_url, monkeypatch):
    store = await WorkerStore.open(sqlite_url, clock=FixedClock(1_700_000_000.0))
    async with Receiver(respond(200)) as receiver:

        async def load(_name):
            return WebhookEndpoint(url=SecretStr(receiver.url), allow_private=True)

        monkeypatch.setattr("tasks.wiring.load_endpoint", load)
        with calling(Caller(store=store)):
            async with open_dispatcher(load_settings()) as dispatcher:
                endpoint = await dispatcher._endpoints.open("hooks")
                await endpoint.destination.sink.send(Event(type="t", source="/s", data=1))
    await store.close()
    assert receiver.journal[0].headers["webhook-timestamp"] == "1700000000"
