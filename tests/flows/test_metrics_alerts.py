"""The metrics flow sends one Prefect event for each alert that begins or ends."""

import asyncio
import contextlib
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from uuid import uuid4

import pytest
from prefect.events import Event as PrefectEvent
from prefect.events.clients import PrefectEventSubscriber, get_events_client
from prefect.events.filters import EventFilter, EventNameFilter

from flows.metrics import export_metrics
from resonant.delivery.retry import Park
from resonant.events import Event
from resonant.local.artifacts import METRICS_ARTIFACT
from resonant.store import WorkerStore
from resonant.store.shared.gates import Gate, GateChange, change_gate
from resonant.testing import FixedClock
from support import desk
from support.waiting import until
from tasks import announcements

pytestmark = pytest.mark.engine

numbers = count()


class Feed:
    """The events about alerts that the server takes, as they come: it keeps none."""

    def __init__(self, api: str) -> None:
        self._api = api
        self.events: list = []
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=[self._listen()], daemon=True
        )

    async def _listen(self) -> None:
        self._listening = asyncio.current_task()
        began_at = datetime.now(UTC)
        names = EventFilter(event=EventNameFilter(prefix=["resonant.alert."]))
        subscriber = PrefectEventSubscriber(self._api, filter=names)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(contextlib.suppress(asyncio.CancelledError))
            await stack.enter_async_context(subscriber)
            self._ready.set()
            async for event in subscriber:
                # The server first sends the events of the last minute, such as those of earlier tests.
                if event.occurred >= began_at:
                    self.events.append(event)

    @staticmethod
    async def _send(probe: str) -> None:
        resource = {"prefect.resource.id": "resonant.test.probe"}
        async with get_events_client(checkpoint_every=1) as client:
            await client.emit(
                PrefectEvent(event="resonant.alert.probe", resource=resource, payload={"what": probe})
            )

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._listening.cancel)
        self._thread.join(10)

    async def expect(self, *whats: str) -> list:
        """Expect these and no other since the last time; return them.

        The server passes events on in order: all that were sent before the probe arrive before it.
        """
        probe = uuid4().hex
        await self._send(probe)
        await until(lambda: [event for event in self.events if event.payload["what"] == probe])
        found = [event for event in self.events if event.payload["what"] != probe]
        self.events = []
        assert [event.payload["what"] for event in found] == list(whats)
        return found


@pytest.fixture
def feed(url, prefect_api):
    with Feed(prefect_api) as listening:
        yield listening


def new_events(number):
    return [Event(id=f"e{next(numbers)}", type="t", source="/s", data=1) for _ in range(number)]


async def send(store, *, delivered=0, failed=0):
    """Send events to the endpoint ``hooks``; those that fail are parked."""
    await store.enqueue(new_events(delivered + failed), "hooks")
    parked = Park(7200.0, store.clock() + 7200)
    await desk.send(store, "hooks", *[None] * delivered, *[parked] * failed)


def kill(*_, **__):
    raise KeyboardInterrupt


async def run_flow(tmp_path):
    return await export_metrics(textfile=str(tmp_path / "out.prom"), return_state=True)


async def test_a_crossing_of_a_threshold_of_the_settings_is_one_event_and_so_is_the_recovery(
    store, feed, tmp_path, read_artifact, monkeypatch
):
    monkeypatch.setenv("RESONANT_ALERT_MIN_ATTEMPTS", "4")
    monkeypatch.setenv("RESONANT_ALERT_ERROR_RATE", "0.2")
    await send(store, failed=5)

    state = await run_flow(tmp_path)

    assert state.is_completed()
    [raised] = await feed.expect("raised")
    assert (await read_artifact(METRICS_ARTIFACT, state)).data.splitlines()[0] == (
        "- **hooks**: ALERT error_rate; normal; 100.00 % of attempts failed in the last hour; no open dead letter"
    )
    assert raised.event == "resonant.alert.raised"
    assert dict(raised.resource) == {
        "prefect.resource.id": "resonant.endpoint.hooks",
        "prefect.resource.name": "hooks",
        "resonant.condition": "error_rate",
    }
    assert [each.id for each in raised.related] == [f"prefect.flow-run.{state.state_details.flow_run_id}"]
    assert raised.payload | {"since": None} == {
        "what": "raised",
        "condition": "error_rate",
        "endpoint": "hooks",
        "value": 1.0,
        "threshold": 0.2,
        "text": "hooks: 100% of 5 attempts in 15 minutes failed, the limit is 20%",
        "since": None,
    }

    await send(store, failed=1)
    await run_flow(tmp_path)
    await feed.expect()

    await send(store, delivered=60)
    await run_flow(tmp_path)
    [recovered] = await feed.expect("recovered")
    assert recovered.event == "resonant.alert.recovered"
    assert recovered.payload["since"] == raised.payload["since"]

    await run_flow(tmp_path)
    await feed.expect()


async def test_an_endpoint_paused_by_a_410_and_deliveries_held_for_long_raise_alerts(
    url, feed, tmp_path, monkeypatch
):
    monkeypatch.setenv("RESONANT_POLICIES", '{"short": {"max_age": 3600}}')

    clock = FixedClock(time.time() - 45 * 60)
    store = await WorkerStore.open(url, clock=clock)
    await store.enqueue(new_events(1), "hooks", policy="short")
    clock.advance(45 * 60)
    normal = Gate("hooks")
    gone = replace(normal, state="paused", since=clock(), reason="it answered 410")
    assert await store.write(change_gate, GateChange(normal, gone))
    await store.close()
    await run_flow(tmp_path)

    raised = {event.payload["condition"]: event for event in await feed.expect("raised", "raised")}
    assert raised.keys() == {"gone", "held"}
    assert raised["held"].payload["value"] == pytest.approx(0.75, abs=0.1)
    assert dict(raised["gone"].resource)["prefect.resource.id"] == "resonant.endpoint.hooks"


@pytest.mark.parametrize("killed_in", ["get_client", "note_sent"])
async def test_a_run_killed_before_or_after_it_sent_its_event_leads_to_one_event(
    store, feed, tmp_path, monkeypatch, killed_in
):
    """The decision is stored first. The server drops a second event with the same id."""
    await send(store, failed=25)
    with monkeypatch.context() as patch:
        patch.setattr(announcements, killed_in, kill)
        with pytest.raises(KeyboardInterrupt):
            await run_flow(tmp_path)
    if killed_in == "get_client":
        await feed.expect()

    await run_flow(tmp_path)
    await feed.expect("raised")
    await run_flow(tmp_path)
    await feed.expect()


async def test_if_the_server_accepts_no_event_the_export_is_written_and_the_run_fails(
    store, feed, tmp_path, monkeypatch
):
    await send(store, failed=25)
    with monkeypatch.context() as patch:

        def refuse(*_, **__):
            raise ConnectionRefusedError("nobody listens")

        patch.setattr(announcements, "get_client", refuse)
        state = await run_flow(tmp_path)

    assert state.is_failed()
    assert state.message.startswith("Prefect's server did not accept an event about an alert or a gate, ")
    assert state.message.endswith("; the next run tries again: nobody listens")
    assert "resonant_events_accepted_total" in (tmp_path / "out.prom").read_text()
    await run_flow(tmp_path)
    await feed.expect("raised")
