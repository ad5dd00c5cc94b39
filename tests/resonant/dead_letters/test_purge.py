"""A purge removes final deliveries of the given age, and archives each on the disk before its row goes.

The simulation checks that a row goes with its history and its event, and is counted.
"""

import errno
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from resonant.dead_letters import purge as purging
from resonant.dead_letters.purge import (
    DAY_SECONDS,
    Chosen,
    Forecast,
    Retention,
    archive_path,
    find_oldest,
    forecast,
    purge,
    purgeable,
    time_of_purge,
)
from resonant.delivery.retry import GiveUp
from resonant.errors import ArchiveError, StoreError
from resonant.events import rfc3339
from resonant.settings import Settings
from resonant.store import WorkerStore, schema
from resonant.store.audit import read_audit
from resonant.store.views.selection import Selection
from support.archives import read_documents

EVERYTHING = Retention(0, 0)


class Killed(BaseException):
    """Stands for the end of the process: nothing after it is written."""


@contextmanager
def days_ago(desk, days):
    desk.clock.advance(-days * DAY_SECONDS)
    yield
    desk.clock.advance(days * DAY_SECONDS)


def deliver(desk, *ids):
    desk.enqueue(*ids)
    desk.deliver(*desk.claim())


def run(desk, what=EVERYTHING, **options):
    return desk.run(purge(desk.store, what, who="Zoë", now=desk.clock(), **options))


def ids_left(desk):
    return {row["event_id"] for row in desk.rows(schema.deliveries)}


def archived_ids(*paths):
    return [document["event"]["id"] for path in paths for document in read_documents(path)]


@pytest.fixture
def aged(desk):
    """Final deliveries of some ages."""
    for event_id, days, endpoint, reason in (
        ("evt_31", 31, "orders", "exhausted"),
        ("evt_29", 29, "orders", "exhausted"),
        ("evt_permanent_6", 6, "orders", "permanent"),
        ("evt_permanent_4", 4, "orders", "permanent"),
        ("evt_audit_60", 60, "audit", "permanent"),
        ("evt_audit_91", 91, "audit", "exhausted"),
    ):
        with days_ago(desk, days):
            desk.bury(event_id, endpoint=endpoint, reason=reason)
    for days in (6, 8):
        with days_ago(desk, days):
            deliver(desk, f"evt_delivered_{days}")
    return desk


@pytest.mark.parametrize(
    ("what", "removed", "delivered"),
    [
        (
            Retention(30, by_reason={"permanent": 5}, by_endpoint={"audit": 90}),
            {"evt_31", "evt_permanent_6", "evt_audit_91"},
            0,
        ),
        (Retention(100, 7), {"evt_delivered_8"}, 1),
        (Retention(30, 5), {"evt_31", "evt_audit_60", "evt_audit_91"}, 2),
        (Chosen(Selection(endpoint="audit")), {"evt_audit_60", "evt_audit_91"}, 0),
        (Chosen(Selection(event_type="order.*"), 50), {"evt_audit_60", "evt_audit_91"}, 0),
    ],
)
def test_only_deliveries_past_their_retention_go_as_the_forecast_and_the_dry_run_say(
    aged, what, removed, delivered
):
    removed |= {"evt_delivered_6", "evt_delivered_8"} if delivered == 2 else set()
    before, audit = ids_left(aged), aged.read(read_audit)
    expected = aged.read(forecast, what, now=aged.clock())
    assert expected == Forecast(len(removed) - delivered, delivered)
    dry = run(aged, what, dry_run=True)
    assert str(dry) == f"{len(removed)} would be purged, {8 - len(removed)} kept"
    assert (ids_left(aged), aged.read(read_audit)) == (before, audit)

    report = run(aged, what)
    assert (report.purged, report.kept) == (dry.purged, dry.kept)
    assert before - ids_left(aged) == removed
    assert aged.status().balanced


@pytest.mark.parametrize("status", ["dead_letter", "delivered"])
def test_a_delivery_that_is_not_final_is_never_removed(desk, status):
    desk.enqueue("evt_pending", "evt_parked", "evt_waiting", "evt_replayed")
    leases = {lease.event.id: lease for lease in desk.claim()}
    desk.run(desk.store.release([leases["evt_pending"]]))
    desk.fail(leases["evt_parked"], desk.park_for(500))
    desk.fail(leases["evt_waiting"], desk.retry_in(5))
    desk.fail(leases["evt_replayed"], GiveUp("exhausted"))
    desk.clock.advance(1)
    found, _ = desk.read(find_oldest, purgeable("dead_letter", finished_before=desk.clock()), limit=10)
    assert len(found) == 1
    desk.replay()
    rule = purgeable(status, finished_before=desk.clock() + 1e9)
    assert desk.write(purging.purge_batch, found, rule, now=desk.clock()) == 0
    assert desk.purge(now=desk.clock() + 1e9) == 0
    assert len(ids_left(desk)) == 4


def test_the_earliest_ended_are_found_first_up_to_a_number_and_a_size(desk, monkeypatch):
    desk.bury("evt_c", "evt_b", desk.make("evt_large", "x" * 1_000), "evt_a", apart=1)
    rule = purgeable("dead_letter", finished_before=desk.row("evt_a")["finished_at"])
    ids = {row["id"]: row["event_id"] for row in desk.rows(schema.deliveries)}

    def find(**options):
        return [ids[each.id] for each in desk.read(find_oldest, rule, **options)[0]]

    [first], _ = desk.read(find_oldest, rule, limit=1)
    assert find(limit=10) == ["evt_c", "evt_b", "evt_large", "evt_a"]
    assert find(limit=2, after=first) == ["evt_b", "evt_large"]
    monkeypatch.setattr(purging, "_MOST_BYTES", 1_000)
    assert find(limit=10) == ["evt_c", "evt_b"]
    [_, second], _ = desk.read(find_oldest, rule, limit=10)
    assert find(limit=10, after=second) == ["evt_large"]


def test_many_transactions_are_one_operation_in_the_audit(desk):
    desk.bury(*(f"evt_{number}" for number in range(120)))
    desk.enqueue("evt_pending")
    seen = []
    report = run(desk, on_progress=seen.append)
    assert report.purged == 120
    assert (seen[0], seen[-1]) == (100, 120)
    status = desk.status()
    assert (status.pending, status.purged, status.balanced) == (1, 120, True)
    [entry] = desk.read(read_audit)
    assert (entry.who, entry.action, entry.count) == ("Zoë", "purge", 120)
    assert entry.selection["dead_letters"] == 0


def test_a_killed_purge_leaves_the_operator_and_the_number_removed_in_the_audit(desk, monkeypatch):
    def killed(_purged):
        monkeypatch.setattr("resonant.store.audit.end_audit", lambda *_args, **_kwargs: None)
        raise Killed

    desk.bury(*(f"evt_{number}" for number in range(120)))
    with pytest.raises(Killed):
        run(desk, on_progress=killed)
    [entry] = desk.read(read_audit)
    assert (entry.who, entry.action, entry.count, entry.ended_at) == ("Zoë", "purge", 100, None)
    assert desk.status().purged == 100


def test_each_purge_that_removes_something_writes_an_archive_of_its_own_with_every_attempt(desk, tmp_path):
    path, second = tmp_path / "purged.jsonl.gz", tmp_path / "purged-2.jsonl.gz"
    desk.enqueue(desk.make("evt_0000", {"name": "Zoë"}))
    for _ in range(2):
        desk.fail(desk.claim_one(), desk.park_for(0))
    desk.fail(desk.claim_one(), GiveUp("exhausted"))
    assert run(desk, archive=path).archive == path
    desk.bury(*(f"evt_{number:04}" for number in range(1, 150)))
    assert run(desk, Retention(30), archive=path).archive is None
    assert list(tmp_path.glob("purged*")) == [path]
    assert run(desk, archive=path).archive == second
    assert archived_ids(path, second) == [f"evt_{number:04}" for number in range(150)]
    [document] = read_documents(path)
    assert [each["number"] for each in document["attempts"]] == [1, 2, 3]
    assert document["delivery"]["reason"] == "exhausted"
    written = [entry.selection["archive"] for entry in desk.read(read_audit) if entry.count]
    assert written == [str(second), str(path)]


def test_a_row_goes_only_after_it_is_archived_on_the_disk(desk, tmp_path, monkeypatch):
    archive = tmp_path / "purged.jsonl"
    synced = []
    fsync = os.fsync

    def killed(*_args, **_kwargs):
        assert archive.stat().st_ino in synced
        raise Killed

    def watched(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    desk.bury("evt_1")
    monkeypatch.setattr("os.fsync", watched)
    monkeypatch.setattr(purging, "_remove", killed)
    with pytest.raises(Killed):
        run(desk, archive=archive)
    assert archived_ids(archive) == ["evt_1"]
    assert ids_left(desk) == {"evt_1"}


def test_rows_that_cannot_be_archived_stay(desk, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    desk.bury("evt_1")
    with pytest.raises(ArchiveError, match="nothing was purged"):
        run(desk, archive=tmp_path / "nowhere" / "a.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(ArchiveError, match="No space left on device; rows that were not archived"):
            run(desk, archive=tmp_path / "a.jsonl")
    assert (desk.status().dead_letter, desk.status().purged) == (1, 0)
    archive = run(desk, archive=tmp_path / "a.jsonl").archive
    assert archived_ids(*tmp_path.glob("a*.jsonl")) == archived_ids(archive) == ["evt_1"]


def test_the_file_of_an_sqlite_store_gets_smaller(open_desk, sqlite_url):
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    desk = open_desk(sqlite_url)
    desk.bury(*(desk.make(f"evt_{number}", "x" * 20_000) for number in range(100)))
    desk.run(desk.store.close())
    before = path.stat().st_size
    desk = open_desk(sqlite_url)
    desk.purge()
    desk.run(desk.store.close())
    assert path.stat().st_size < before / 5


# --- the daily purge ---------------------------------------------------------------------------------------------


def test_the_daily_purge_follows_the_settings():
    settings = Settings(
        retention_days=7, retention_delivered_days="never", retention_by_reason={"expired": 1}
    )
    assert Retention.of_settings(settings) == Retention(7, None, {"expired": 1})
    assert Retention.of_settings(Settings()) == Retention(30, 30)


def test_archives_are_in_a_private_folder_of_the_home(tmp_path):
    path = archive_path(None, Settings(home=tmp_path / "home"), 1_700_000_000.0)
    assert path == tmp_path / "home" / "archive" / "purged-2023-11-14.jsonl.gz"
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_archive_may_be_a_given_file(tmp_path):
    settings = Settings(home=tmp_path / "home")
    assert archive_path("other.jsonl", settings, 0.0) == Path("other.jsonl")


def test_nothing_is_purged_if_the_folder_of_the_archive_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match="archive: Not a directory; nothing was purged"):
        archive_path(None, Settings(home=tmp_path / "file"), 0.0)


@pytest.fixture
def delivered_now(open_desk, postgresql_url):
    """The URL of a store on PostgreSQL, by whose clock an event was just delivered."""
    desk = open_desk(postgresql_url)
    desk.clock.advance(time.time() - desk.clock())
    deliver(desk, "evt_1")
    return postgresql_url


@pytest.mark.parametrize(("days", "said"), [(31.0, "31.0 days ahead of"), (-1.5, "1.5 days behind")])
async def test_a_machine_whose_clock_is_more_than_a_day_off_purges_nothing(delivered_now, days, said):
    store = await WorkerStore.open(delivered_now, process_clock=lambda: time.time() + days * DAY_SECONDS)
    with pytest.raises(StoreError) as refusal:
        await time_of_purge(store)
    assert str(refusal.value) == (
        "postgresql://postgres@/test: nothing was purged, since the clock of this machine is "
        f"{said} that of the store: correct the wrong one, and run the purge again"
    )
    await store.close()


async def test_ages_and_the_name_of_the_archive_are_by_the_clock_of_the_store(delivered_now, tmp_path):
    """Otherwise, a machine ahead would remove what it must keep."""
    store = await WorkerStore.open(delivered_now, process_clock=lambda: time.time() + 0.99 * DAY_SECONDS)
    now = await time_of_purge(store)
    assert abs(now - time.time()) < 0.1 * DAY_SECONDS
    today = archive_path(None, Settings(home=tmp_path), now)
    assert today.name == f"purged-{rfc3339(now)[:10]}.jsonl.gz"
    what = Retention(delivered=0.5, bodies=0.5)
    for dry_run in (True, False):
        report = await purge(store, what, who="Zoë", now=now, archive=today, dry_run=dry_run)
        assert (report.purged, report.bodies, report.archive) == (0, 0, None)
    await store.close()
