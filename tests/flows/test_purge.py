"""The daily purge as a flow archives removed deliveries unless told not to."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.dead_letters import purge_dead_letters
from resonant.dead_letters.purge import DAY_SECONDS
from resonant.events import Attempt, Event
from resonant.store import Outcome, WorkerStore
from resonant.testing import FixedClock
from tasks.purge import PURGE_ARTIFACT

pytestmark = pytest.mark.engine


async def deliver(url: str, event_id: str, *, days_ago: float) -> None:
    clock = FixedClock(time.time() - days_ago * DAY_SECONDS)
    store = await WorkerStore.open(url, clock=clock)
    await store.enqueue([Event(id=event_id, type="t", source="/s", data=1)], "hooks")
    [lease] = await store.claim("hooks", owner="w", limit=1)
    await store.begin([lease])
    await store.record([Outcome(lease, Attempt(1, 1, clock(), 0.1, "delivered", status_code=200), None)])
    await store.close()


async def test_delivered_history_is_in_the_archive_of_the_day_before_it_goes(
    prefect_api, tmp_path, monkeypatch
):
    url = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    monkeypatch.setenv("RESONANT_HOME", str(tmp_path / "home"))

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        await deliver(url, "evt_old", days_ago=31)
        await deliver(url, "evt_new", days_ago=1)
        counted = await purge_dead_letters(dry_run=True, return_state=True)
        assert counted.message == "1 would be purged, 1 kept"
        assert not (tmp_path / "home").exists()
        purged = await purge_dead_letters(return_state=True)
        async with get_client() as client:
            artifact = await Artifact.aget(PURGE_ARTIFACT, client=client)
        assert artifact.flow_run_id == purged.state_details.flow_run_id
        kept = await purge_dead_letters(delivered_older_than_days=0, archive="none", return_state=True)
        message, row, without = purged.message, json.loads(artifact.data)[0], kept.message

    [archive] = (tmp_path / "home" / "archive").iterdir()
    assert message == f"1 purged, 1 kept; archived in {archive}"
    assert row["archive"] == str(archive)
    [line] = gzip.decompress(archive.read_bytes()).decode().splitlines()
    assert json.loads(line)["event"]["id"] == "evt_old"
    assert without == "1 purged, 0 kept; no archive"
