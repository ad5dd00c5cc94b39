"""The shipped settings of the Prefect server: every task run of a burst is recorded, and the event feed has the other
events.

With Prefect's own broker, and the same settings otherwise, this burst loses records: each task run has three events, the server
receives them faster than it records them, and the broker drops events once 10,000 wait.
"""

import asyncio
import time
from typing import Any
from unittest.mock import patch

import pytest
from prefect import flow, task
from prefect.client.schemas.objects import TaskRun
from prefect.events import Event, emit_event
from prefect.events.clients import PrefectEventsClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Pending, Running
from prefect.utilities.engine import emit_task_run_state_change_event

from resonant.local.server import send_events
from resonant.store.shared.announcements import add_announcement, prefect_event, read_announcements
from support.dispatching import opened
from support.prefect import forget_server, patient_client
from support.waiting import wait_until
from tasks.announcements import announce

pytestmark = [pytest.mark.engine, pytest.mark.shared_up, pytest.mark.slow, pytest.mark.timeout(600)]

TASK_RUNS = 4_000


@pytest.fixture
def api(up):
    """The URL of the API of ``up``, whose server has the shipped settings."""
    yield f"{up.url}/api"
    forget_server(f"{up.url}/api")


def events_of_task_runs(flow_run: str) -> list[Event]:
    """Return the events that Prefect's client sends for task runs that do nothing."""
    owner = {"prefect.resource.id": f"prefect.flow-run.{flow_run}", "prefect.resource.role": "flow-run"}
    events: list[Event] = []

    def keep(**given: Any) -> None:
        events.append(Event(**given | {"follows": None, "related": [owner]}))

    with patch("prefect.utilities.engine.emit_event", keep):
        for number in range(TASK_RUNS):
            run = TaskRun(task_key="nothing", dynamic_key=str(number), name=f"nothing-{number}")
            states = (Pending(), Running(), Completed())
            for before, state in zip((None, *states), states, strict=False):
                emit_task_run_state_change_event(run, before, state)
    return events


async def send_burst(api: str, events: list[Event], store_url: str) -> None:
    """Send the events, and an announcement among them."""
    async with PrefectEventsClient(api) as client:
        for number, event in enumerate(events):
            if number == len(events) // 2:
                assert not await announced(store_url, new=True)
            await client.emit(event)


async def announced(url: str, *, new: bool = False) -> bool:
    """Store an announcement if ``new``, send the stored ones, and return whether the event feed has all."""
    async with opened(url) as store:
        if new:
            event = prefect_event("resonant.test.of-a-burst", "hooks", {}, at=time.time())
            await store.write(add_announcement, event, now=store.clock())
        await announce(store)
        return not await store.read(read_announcements)


def test_every_task_run_of_a_burst_is_recorded_and_an_alert_reaches_the_feed(api, sqlite_url):
    with patient_client(api) as client, temporary_settings({PREFECT_API_URL: api}):
        of_burst = client.post("/flows/", json={"name": "burst"}).json()["id"]
        flow_run = client.post("/flow_runs/", json={"flow_id": of_burst}).json()["id"]

        started_at = time.monotonic()
        asyncio.run(send_burst(api, events_of_task_runs(flow_run), sqlite_url))
        count, last_at = 0, time.monotonic()
        completed = {
            "flow_runs": {"id": {"any_": [flow_run]}},
            "task_runs": {"state": {"name": {"any_": ["Completed"]}}},
        }
        # It is over when all are there, or nothing has come for longer than a server keeps anything.
        while count < TASK_RUNS and time.monotonic() < last_at + 30:
            time.sleep(0.5)
            if (now := client.post("/task_runs/count", json=completed).json()) != count:
                count, last_at = now, time.monotonic()
        seconds = last_at - started_at
        print(f"{count} recorded in {seconds:.1f} s, {count / seconds:.0f}/s")

        assert count == TASK_RUNS
        wait_until(lambda: asyncio.run(announced(sqlite_url)), every=1.0)


def test_the_event_feed_has_events_of_flow_runs_and_ours_but_not_of_task_runs(api):
    @task
    def step() -> None:
        pass

    @flow(name="seen-in-the-feed")
    def main() -> None:
        step()
        emit_event("resonant.gate.probing", {"prefect.resource.id": "resonant.endpoint.feed"})

    with temporary_settings({PREFECT_API_URL: api}):
        main()
        send_events(api)

    def seen() -> set[str]:
        with patient_client(api) as client:
            found = client.post("/events/filter", json={"filter": {}, "limit": 50}).json()["events"]
        return {each["event"] for each in found}

    wait_until(lambda: {"prefect.flow-run.Completed", "resonant.gate.probing"} <= seen(), every=0.5)
    assert not [event for event in seen() if event.startswith("prefect.task-run.")]
