"""The daily purge as a flow archives removed deliveries, unless its parameter is ``none``."""

import json
import time

import pytest

from flows.dead_letters import purge_dead_letters
from resonant.dead_letters.purge import DAY_SECONDS
from resonant.events import Event
from resonant.testing import FixedClock
from support.archives import read_documents
from support.desk import send
from support.dispatching import opened
from tasks.purge import PURGE_ARTIFACT

pytestmark = pytest.mark.engine


async def deliver(url: str, event_id: str, *, days_ago: float) -> None:
    async with opened(url, clock=FixedClock(time.time() - days_ago * DAY_SECONDS)) as store:
        await store.enqueue([Event(id=event_id, type="t", source="/s", data=1)], "hooks")
        await send(store, "hooks", None)


async def test_delivered_history_is_archived_before_it_goes(url, read_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("RESONANT_HOME", str(tmp_path / "home"))
    await deliver(url, "evt_old", days_ago=31)
    await deliver(url, "evt_new", days_ago=1)

    counted = await purge_dead_letters(dry_run=True, return_state=True)
    assert counted.message == "1 would be purged, 1 kept"
    assert not (tmp_path / "home").exists()

    purged = await purge_dead_letters(return_state=True)
    [archive] = (tmp_path / "home" / "archive").iterdir()
    assert purged.message == f"1 purged, 1 kept; archived in {archive}"
    [row] = json.loads((await read_artifact(PURGE_ARTIFACT, purged)).data)
    assert row["archive"] == str(archive)
    [document] = read_documents(archive)
    assert document["event"]["id"] == "evt_old"

    kept = await purge_dead_letters(delivered_older_than_days=0, archive="none", return_state=True)
    assert kept.message == "1 purged, 0 kept; no archive"
