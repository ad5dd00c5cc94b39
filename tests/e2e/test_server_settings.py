"""The shipped settings of the Prefect server: every task run of a burst is recorded, and the event feed has the other
events.

With Prefect's own broker, and the same settings otherwise, this burst lost a third of its records on a busy machine.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL, temporary_settings

from resonant.local.server import send_events
from resonant.store.shared.announcements import add_announcement, prefect_event, read_announcements
from support.dispatching import opened
from support.prefect import forget_server, patient_client
from support.waiting import wait_until
from tasks.announcements import announce

pytestmark = [pytest.mark.engine, pytest.mark.shared_up, pytest.mark.slow, pytest.mark.timeout(600)]

TASK_RUNS = 5_000


@pytest.fixture
def api(up):
    """The URL of the API of ``up``, whose server has the shipped settings."""
    yield f"{up.url}/api"
    forget_server(f"{up.url}/api")


BURST = f"""
import asyncio
from benches.empty_tasks import empty_tasks
asyncio.run(empty_tasks({TASK_RUNS}, 200))
"""


async def announced(url: str, *, new: bool = False) -> bool:
    """Store an announcement if ``new``, send the stored ones, and return whether the event feed has all."""
    async with opened(url) as store:
        if new:
            event = prefect_event("resonant.test.of-a-burst", "hooks", {}, at=time.time())
            await store.write(add_announcement, event, now=store.clock())
        await announce(store)
        return not await store.read(read_announcements)


def test_every_task_run_of_a_burst_is_recorded_and_an_alert_reaches_the_feed(api, tmp_path, sqlite_url):
    of_burst = {
        "flows": {"name": {"any_": ["empty-tasks"]}},
        "task_runs": {"state": {"name": {"any_": ["Completed"]}}},
    }
    quiet = {
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_URL": api,
    }
    with patient_client(api) as client:

        def recorded() -> int:
            return client.post("/task_runs/count", json=of_burst).json()

        already = recorded()
        started_at = last_at = time.monotonic()
        burst = subprocess.Popen(
            [sys.executable, "-c", BURST],
            cwd=Path(__file__).parents[2],
            env=os.environ | quiet,
            stdout=subprocess.DEVNULL,
        )
        count, is_alerted = 0, False
        # It is over when all are there, or nothing has come for longer than a server keeps anything.
        while count < TASK_RUNS and time.monotonic() < last_at + 30:
            time.sleep(0.5)
            if (now := recorded() - already) != count or burst.poll() is None:
                count, last_at = now, time.monotonic()
            if count > TASK_RUNS / 4 and not is_alerted:
                with temporary_settings({PREFECT_API_URL: api}):
                    assert not asyncio.run(announced(sqlite_url, new=True))
                is_alerted = True
        seconds = last_at - started_at
        print(f"{count} recorded in {seconds:.1f} s, {count / seconds:.0f}/s")

    assert burst.wait(60) == 0
    assert count == TASK_RUNS
    with temporary_settings({PREFECT_API_URL: api}):
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

    wait_until(lambda: {"prefect.flow-run.Completed", "resonant.gate.probing"} <= seen(), 60, every=0.5)
    assert not [event for event in seen() if event.startswith("prefect.task-run.")]
