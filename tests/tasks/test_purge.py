"""The daily purge does not trust the clock of one machine."""

import time

import pytest

from resonant.dead_letters.purge import DAY_SECONDS
from resonant.errors import StoreError
from resonant.events import Event
from resonant.settings import load_settings
from resonant.store import WorkerStore
from support.desk import send
from tasks.purge import purge_final_deliveries


async def test_a_machine_whose_clock_is_a_month_ahead_removes_nothing(postgresql_url, tmp_path, monkeypatch):
    monkeypatch.setenv("RESONANT_HOME", str(tmp_path / "home"))
    store = await WorkerStore.open(postgresql_url, process_clock=lambda: time.time() + 31 * DAY_SECONDS)
    await store.enqueue(Event(type="t", source="/s", data=1), "hooks")
    await send(store, "hooks", None)
    with pytest.raises(
        StoreError, match=r"nothing was purged, since the clock of this machine is 31.0 days ahead"
    ):
        await purge_final_deliveries(
            store,
            load_settings(),
            older_than_days=None,
            delivered_older_than_days=0.0,
            archive=None,
            dry_run=False,
        )
    assert (await store.status()).delivered == 1
    assert not (tmp_path / "home").exists()
    await store.close()
