"""Opening the configured store while it is unreachable."""

import asyncio
import sqlite3

import pytest

from resonant.configured import open_configured_store
from resonant.errors import StoreLocked, StoreRefused, StoreUnavailable
from resonant.settings import Settings
from support.waiting import until


async def unfinished(url, *, patient, lease_seconds=30.0):
    settings = Settings(database_url=url, lease_seconds=lease_seconds)
    async with open_configured_store(settings, patient=patient) as store:
        return await store.unfinished()


@pytest.fixture
def away(postgresql):
    """A database that does not exist yet, and first refuses connections."""
    name = "away"
    postgresql.execute(f"CREATE DATABASE {name} ALLOW_CONNECTIONS false")
    yield postgresql.url(name)
    postgresql.execute(f"DROP DATABASE {name} (FORCE)")


async def test_a_drain_waits_for_a_store_that_comes_back_in_time(away, postgresql, caplog):
    opening = asyncio.create_task(unfinished(away, patient=True, lease_seconds=360.0))
    await until(lambda: caplog.messages)
    assert not opening.done()
    await asyncio.to_thread(postgresql.execute, "ALTER DATABASE away ALLOW_CONNECTIONS true")
    assert (await opening) == 0
    [line] = caplog.messages
    assert line.startswith("postgresql://postgres@/away: ")
    assert line.endswith(": trying again for 120 s")


@pytest.mark.parametrize("patient", [True, False])
async def test_a_drain_gives_up_after_its_patience_and_other_commands_do_not_wait(away, caplog, patient):
    with pytest.raises(StoreUnavailable):
        await unfinished(away, patient=patient, lease_seconds=3.0)
    assert [line.rpartition(": ")[2] for line in caplog.messages] == ["trying again for 1 s"] * patient


async def test_a_refusal_is_not_waited_out(postgresql, tmp_path, caplog):
    (tmp_path / "text.db").write_text("A text,\n" * 1_000)
    for url in (postgresql.url("nowhere"), f"sqlite:///{tmp_path}/text.db", f"sqlite:///{tmp_path}"):
        with pytest.raises(StoreRefused):
            await unfinished(url, patient=True)
    assert caplog.messages == []


async def test_a_new_store_that_another_process_has_locked_is_opened_when_it_is_free(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("resonant.store.engine.sqlite._BUSY_TIMEOUT_SECONDS", 0.2)
    url, path = f"sqlite:///{tmp_path}/resonant.db", tmp_path / "resonant.db"

    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLocked):
        await unfinished(url, patient=False)
    opening = asyncio.create_task(unfinished(url, patient=True, lease_seconds=1.0))
    await until(lambda: caplog.messages)
    assert not opening.done()
    other.rollback()
    assert (await opening) == 0
    other.close()
