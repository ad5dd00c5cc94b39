"""A purge: what goes, what stays, and what is on disk before it goes."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path

import pytest

from resonant.dead_letters import operations
from resonant.dead_letters.purge import (
    DAY_SECONDS,
    Forecast,
    Retention,
    _Batch,
    forecast,
    prepared_archive,
    purge,
)
from resonant.delivery.retry import GiveUp, Park
from resonant.errors import ArchiveError
from resonant.events import Attempt, Event
from resonant.settings import Settings
from resonant.store import Outcome
from resonant.store.audit import read_audit
from support.stores import opened


async def end(store, *ids, endpoint="orders", reason="exhausted", attempts=1, days_ago=0.0, data=None):
    """Accept events, and let each end in this way, so long ago; no reason is a delivery."""
    now = store.clock()
    store.clock.advance(-days_ago * DAY_SECONDS)
    events = [Event(id=each, type="t", source="/s", data=data) for each in ids]
    await store.enqueue(events, endpoint)
    for number in range(1, attempts + 1):
        leases = await store.claim(endpoint, owner="w", limit=10_000)
        decision = GiveUp(reason) if reason else None
        decision = Park(0.0, store.clock()) if number < attempts else decision
        result = "delivered" if decision is None else "failed"
        await store.begin(leases)
        await store.record(
            [Outcome(each, Attempt(number, 1, store.clock(), 0.1, result), decision) for each in leases]
        )
    store.clock.advance(now - store.clock())


def archived(path):
    data = path.read_bytes()
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()
    return [json.loads(line) for line in lines]


async def ids_left(store):
    return {dead_letter.event_id for dead_letter in await store.dead_letters()}


async def test_retention_goes_by_endpoint_then_by_reason_then_by_age(store_url):
    retention = Retention(dead_letters=30, by_reason={"permanent": 5}, by_endpoint={"audit": 90})

    async with opened(store_url) as store:
        await end(store, "evt_old", days_ago=31)
        await end(store, "evt_new", days_ago=29)
        await end(store, "evt_permanent", reason="permanent", days_ago=6)
        await end(store, "evt_permanent_new", reason="permanent", days_ago=4)
        await end(store, "evt_audit", endpoint="audit", reason="permanent", days_ago=60)
        await end(store, "evt_audit_old", endpoint="audit", days_ago=91)
        await end(store, "evt_delivered", reason=None, days_ago=1_000)
        report = await purge(store, retention, who="x")
        assert (report.purged, report.kept) == (3, 4)
        assert await ids_left(store) == {"evt_new", "evt_permanent_new", "evt_audit"}
        assert (await store.status()).balanced


async def test_delivered_history_goes_by_its_own_age(store_url):
    async with opened(store_url) as store:
        await end(store, "evt_old", reason=None, days_ago=8)
        await end(store, "evt_new", reason=None, days_ago=6)
        await end(store, "evt_dead", days_ago=8)
        assert (await purge(store, Retention(delivered=7), who="x")).purged == 1
        assert await store.detail("evt_old") is None
        assert await store.detail("evt_new") is not None


async def test_a_dry_run_says_the_same_and_changes_nothing(store_url, tmp_path):
    async with opened(store_url) as store:
        await end(store, "evt_1", "evt_2")
        await store.enqueue([Event(id="evt_3", type="t", source="/s", data=None)], "orders")
        before = await store.status()
        archive = tmp_path / "a.jsonl"
        report = await purge(store, Retention(dead_letters=0), who="x", archive=archive, dry_run=True)
        assert (report.purged, report.kept, str(report)) == (2, 0, "2 would be purged, 0 kept")
        assert await store.status() == before
        assert await store.read(read_audit) == []
        assert not archive.exists()


async def test_zero_days_is_all_that_is_final_in_many_transactions_with_an_audit_row(store_url):
    async with opened(store_url) as store:
        await end(store, *(f"evt_{number}" for number in range(1_200)))
        await store.enqueue([Event(id="evt_p", type="t", source="/s", data=None)], "orders")
        seen = []
        report = await purge(store, Retention(dead_letters=0), who="Zoë", on_progress=seen.append)
        assert (report.purged, seen[0], seen[-1]) == (1_200, 100, 1_200)
        assert len(seen) > 1
        status = await store.status()
        assert (status.pending, status.purged, status.balanced) == (1, 1_200, True)
        [entry] = await store.read(read_audit)
        assert (entry.who, entry.action, entry.count) == ("Zoë", "purge", 1_200)
        assert entry.selection["dead_letters"] == 0


@pytest.mark.parametrize("name", ["purged.jsonl", "purged.jsonl.gz"])
async def test_the_archive_holds_every_attempt_and_is_added_to(store_url, tmp_path, name):
    archive = tmp_path / name

    async with opened(store_url) as store:
        await end(store, "evt_0001", attempts=3, data={"name": "Zoë"})
        await purge(store, Retention(dead_letters=0), who="x", archive=archive)
        await end(store, *(f"evt_{number:04}" for number in range(2, 1_002)))
        await purge(store, Retention(dead_letters=0), who="x", archive=archive)
    documents = archived(archive)
    assert [each["event"]["id"] for each in documents] == [f"evt_{number:04}" for number in range(1, 1_002)]
    assert [each["number"] for each in documents[0]["attempts"]] == [1, 2, 3]
    assert documents[0]["delivery"]["reason"] == "exhausted"
    assert archive.stat().st_mode & 0o077 == 0


async def test_what_is_archived_is_on_disk_before_its_row_goes(store_url, tmp_path, monkeypatch):
    archive = tmp_path / "purged.jsonl"

    class Killed(BaseException):
        """Stands for the end of the process between the archive and the row."""

    def killed(*_args, **_kwargs):
        raise Killed

    async with opened(store_url) as store:
        await end(store, "evt_1")
        monkeypatch.setattr("resonant.dead_letters.operations.purge", killed)
        with pytest.raises(Killed):
            await purge(store, Retention(dead_letters=0), who="x", archive=archive)
        assert [each["event"]["id"] for each in archived(archive)] == ["evt_1"]
        assert await ids_left(store) == {"evt_1"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_an_archive_that_cannot_be_written_leaves_the_rows(store_url, tmp_path):
    async with opened(store_url) as store:
        await end(store, "evt_1")
        for archive in (Path("/dev/full"), tmp_path / "nowhere" / "a.jsonl"):
            with pytest.raises(ArchiveError, match="purged"):
                await purge(store, Retention(dead_letters=0), who="x", archive=archive)
        assert await ids_left(store) == {"evt_1"}
        assert (await store.status()).purged == 0


@pytest.mark.parametrize("name", ["orders.json", "orders.json.gz"])
async def test_a_file_that_is_no_archive_is_left_as_it_is_and_so_are_the_rows(store_url, tmp_path, name):
    other = tmp_path / name
    other.write_text('{"orders": [1, 2, 3]}')

    async with opened(store_url) as store:
        await end(store, "evt_1")
        with pytest.raises(ArchiveError, match="is not an archive of a purge"):
            await purge(store, Retention(dead_letters=0), who="x", archive=other)
        assert await ids_left(store) == {"evt_1"}
    assert other.read_text() == '{"orders": [1, 2, 3]}'


async def test_what_was_purged_after_another_purge_was_killed_in_the_middle_of_a_write_stays_archived(
    store_url, tmp_path, monkeypatch
):
    archive = tmp_path / "purged.jsonl.gz"
    look_for_final = operations.look_for_final
    purged = {f"evt_{number}" for number in range(300)}

    def torn(connection, rule, **kwargs):
        """Leave what a purge that is killed now would."""
        picked = look_for_final(connection, rule, **kwargs)
        if picked:
            with archive.open("ab") as other:
                other.write(gzip.compress(b'{"event": {"id": "evt_torn"}}')[:25])
        return picked

    async with opened(store_url) as store:
        await end(store, *purged)
        with monkeypatch.context() as patched:
            patched.setattr(operations, "look_for_final", torn)
            assert (await purge(store, Retention(dead_letters=0), who="x", archive=archive)).purged == 300
        await end(store, "evt_last")
        await purge(store, Retention(dead_letters=0), who="x", archive=archive)
    assert {each["event"]["id"] for each in archived(archive)} == {*purged, "evt_last"}


@pytest.mark.parametrize("name", ["purged.jsonl", "purged.jsonl.gz"])
async def test_an_archive_on_a_disk_that_is_full_is_left_whole_and_goes_on_when_there_is_room(
    store_url, tmp_path, monkeypatch, name
):
    archive = tmp_path / name

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with opened(store_url) as store:
        await end(store, "evt_1")
        await purge(store, Retention(dead_letters=0), who="x", archive=archive)
        size = archive.stat().st_size
        await end(store, "evt_2")
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            with pytest.raises(ArchiveError, match="No space left"):
                await purge(store, Retention(dead_letters=0), who="x", archive=archive)
        assert archive.stat().st_size == size
        assert await ids_left(store) == {"evt_2"}
        await purge(store, Retention(dead_letters=0), who="x", archive=archive)
    assert [each["event"]["id"] for each in archived(archive)] == ["evt_1", "evt_2"]


async def test_a_purge_that_is_killed_leaves_who_began_it_and_what_it_removed(store_url, monkeypatch):
    class Killed(BaseException):
        """Stands for the end of the process: nothing after it is written."""

    async with opened(store_url) as store:
        await end(store, *(f"evt_{number}" for number in range(1_000)))

        def killed(_purged):
            monkeypatch.setattr("resonant.store.audit.end_audit", lambda *_args, **_kwargs: None)
            raise Killed

        with pytest.raises(Killed):
            await purge(store, Retention(dead_letters=0), who="Zoë", on_progress=killed)
        [entry] = await store.read(read_audit)
        assert (entry.who, entry.action, entry.count, entry.ended_at) == ("Zoë", "purge", 100, None)
        assert (await store.status()).purged == 100


async def test_what_a_rule_passes_over_is_not_read_again_for_every_batch(store_url):
    async with opened(store_url) as store:
        await end(store, *(f"kept_{number}" for number in range(700)), endpoint="kept")
        await end(store, *(f"evt_{number}" for number in range(700)))
        retention = Retention(dead_letters=0, by_endpoint={"kept": 30})
        report = await purge(store, retention, who="x")
        assert (report.purged, report.kept) == (700, 700)


def test_a_transaction_removes_as_many_as_the_time_allows():
    batch = _Batch()
    batch.took(0.6)
    assert batch.size == 50
    for _ in range(20):
        batch.took(0.001)
    assert batch.size == 5_000
    batch.took(0.1)
    assert batch.size == 3_000


async def test_the_file_of_an_sqlite_store_gets_smaller(sqlite_url):
    path = Path(sqlite_url.removeprefix("sqlite:///"))

    async with opened(sqlite_url) as store:
        await end(store, *(f"evt_{number}" for number in range(2_000)), data="x" * 5_000)
    before = path.stat().st_size
    async with opened(sqlite_url) as store:
        await purge(store, Retention(dead_letters=0), who="x")
    assert path.stat().st_size < before / 5


# --- the daily purge ---------------------------------------------------------------------------------------------


def test_the_daily_purge_follows_the_settings():
    settings = Settings(
        retention_days=7, retention_delivered_days="never", retention_by_reason={"expired": 1}
    )
    assert Retention.of_settings(settings) == Retention(7, None, {"expired": 1})
    assert Retention.of_settings(Settings()) == Retention(30, 30)


async def test_a_forecast_counts_what_a_purge_would_remove(store_url):
    async with opened(store_url) as store:
        await end(store, "evt_old", "evt_old_too", days_ago=31)
        await end(store, "evt_delivered", reason=None, days_ago=31)
        await end(store, "evt_new", "evt_expired", days_ago=1)
        await end(store, "evt_other", endpoint="crm", days_ago=3)
        retention = Retention(30, 30, by_endpoint={"crm": 2})
        expected = await store.read(forecast, retention, now=store.clock())
        report = await purge(store, retention, who="a test")
    assert expected == Forecast(dead_letters=3, delivered=1)
    assert report.purged == 4


def test_the_archive_of_a_day_is_under_the_home_and_its_owners_alone(tmp_path):
    settings = Settings(home=tmp_path / "home")
    path = prepared_archive(None, settings, 1_700_000_000.0)
    assert path == tmp_path / "home" / "archive" / "purged-2023-11-14.jsonl.gz"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert prepared_archive("other.jsonl", settings, 0.0) == Path("other.jsonl")
    assert prepared_archive("none", settings, 0.0) is None


def test_nothing_is_purged_if_the_archive_folder_cannot_be_created(tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(ArchiveError, match="archive: Not a directory; nothing was purged"):
        prepared_archive(None, Settings(home=tmp_path / "home"), 0.0)


async def test_a_purge_that_removes_nothing_leaves_no_archive(sqlite_url, tmp_path):
    async with opened(sqlite_url) as store:
        await end(store, "evt_new")
        await purge(store, Retention(30), who="a test", archive=tmp_path / "purged.jsonl.gz")
    assert not (tmp_path / "purged.jsonl.gz").exists()
