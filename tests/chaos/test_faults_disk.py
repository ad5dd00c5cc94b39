"""The disk is full, and then has space again: nothing is lost, nothing half written is taken for whole."""

import asyncio
import base64
import json
import resource
import signal
from pathlib import Path

import pytest
from chaos_facts import Database
from faults import (
    AUTO_LANE_FIRST,
    ENDPOINT,
    IS_LONG,
    TASK_LANE_FIRST,
    Fault,
    assert_one_line,
    machine_of,
    make_events,
    most_begun,
    write_lines,
)
from faults_disk import small_disk

from resonant.dead_letters.cancel import cancel
from resonant.errors import StoreUnavailable
from resonant.store.views.selection import Selection
from support.archives import read_documents
from support.machine import finished

pytestmark = pytest.mark.slow


def stored(url: str) -> int:
    return Database(url).query("SELECT count(*) AS number FROM resonant_deliveries")[0]["number"]


def enqueuing(lines: Path) -> tuple[str, ...]:
    return "enqueue", str(lines), "--endpoint", ENDPOINT, "--allow-unknown"


def cancel_all(fault: Fault, count: int) -> None:
    """Store events, and make dead letters of them."""

    async def cancel_them() -> None:
        await fault.enqueue(count)
        async with fault.opened_store() as store:
            await cancel(store, Selection(), who="test")

    asyncio.run(cancel_them())


def no_large_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = 1_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


class TestWhileEventsAreStored:
    def test_stored_events_stay_and_the_same_command_stores_the_rest(self, tmp_path, receiver):
        events = make_events(6000)
        enqueue = enqueuing(write_lines(tmp_path / "events.jsonl", events))
        with small_disk(tmp_path / "disk", "2m") as disk:
            url = f"sqlite:///{disk.folder}/resonant.db"
            machine = machine_of(tmp_path, url)
            refused = machine.do(*enqueue, code=1)
            assert_one_line(refused, "the disk is full: free some space", "000 new events stored: ")
            kept = stored(url)
            assert f" {kept:,} new events stored: " in refused.stderr

            disk.grow("64m")
            done = machine.do(*enqueue)
            assert done.stdout == f"stored {6000 - kept:,} events for {ENDPOINT}, {kept:,} already known\n"
            assert 0 < kept < stored(url) == 6000

    def test_a_limit_on_the_size_of_files_is_reported_in_the_same_way(self, tmp_path):
        enqueue = enqueuing(write_lines(tmp_path / "events.jsonl", make_events(3000)))
        url = f"sqlite:///{tmp_path}/resonant.db"
        machine = machine_of(tmp_path, url)
        refused = finished(machine.start(*enqueue, preexec_fn=no_large_files))
        assert_one_line(refused, "the disk cannot be written", "stored: running this again is safe")
        machine.do(*enqueue)
        assert stored(url) == 3000


class TestWhileEventsAreEmitted:
    @TASK_LANE_FIRST
    async def test_a_short_outage_changes_nothing(self, tmp_path, receiver, lane):
        with small_disk(tmp_path / "disk", "8m") as disk:
            fault = Fault(f"sqlite:///{disk.folder}/resonant.db", receiver, lane)
            emitting = await fault.started(400, received=80)
            disk.fill()
            await fault.when_refused()
            recorded = len(fault.attempts("id"))
            await fault.when_refused()
            assert recorded == len(fault.attempts("id")) < 400, "it was full"
            disk.free()
            assert (await emitting).delivered == 400
            fault.account()

    @AUTO_LANE_FIRST
    async def test_a_long_outage_ends_the_run_in_one_line_and_the_next_run_continues(
        self, tmp_path, receiver, lane
    ):
        with small_disk(tmp_path / "disk", "8m") as disk:
            fault = Fault(f"sqlite:///{disk.folder}/resonant.db", receiver, lane, lease_seconds=1.5)
            emitting = await fault.started(400, received=80)
            disk.fill()
            with pytest.raises(StoreUnavailable, match="the disk is full"):
                await emitting
            disk.free()
            await fault.emit_all()
            fault.account(most_twice=most_begun(lane))


class TestWhilePurgedEventsAreArchived:
    @pytest.mark.parametrize(
        ("name", "size"), [("purged.jsonl.gz", "64k"), *[("purged.jsonl", "256k")] * IS_LONG]
    )
    def test_only_archived_rows_are_purged_and_the_next_purge_takes_the_rest(
        self, tmp_path, receiver, name, size
    ):
        fault = Fault(f"sqlite:///{tmp_path}/resonant.db", receiver)
        cancel_all(fault, 2000)
        machine = machine_of(tmp_path, fault.url)
        with small_disk(tmp_path / "disk", size) as disk:
            archive = disk.folder / name
            purge = ("purge", "--older-than", "0", "--yes", "--archive", str(archive))
            refused = machine.do(*purge, code=1)
            assert_one_line(refused, "No space left on device; rows that were not archived were not purged")
            kept = stored(fault.url)
            assert 0 < kept < 2000
            assert len(self.read(disk.folder)) == 2000 - kept

            disk.grow("16m")
            machine.do(*purge)
            assert stored(fault.url) == 0
            assert self.read(disk.folder) == fault.given
        assert machine.do("status", "--json").stdout.count('"balanced": true') == 1

    @staticmethod
    def read(folder) -> dict[str, bytes]:
        """Read archives in which each event is once."""
        documents = [each for archive in folder.iterdir() for each in read_documents(archive)]
        found = {each["event"]["id"]: base64.b64decode(each["event"]["body"]) for each in documents}
        assert len(found) == len(documents)
        return found


class TestWhileAReportIsExported:
    def test_the_last_report_stays_and_the_next_one_is_whole(self, tmp_path, receiver):
        fault = Fault(f"sqlite:///{tmp_path}/resonant.db", receiver)
        machine = machine_of(tmp_path, fault.url)
        with small_disk(tmp_path / "disk", "64k") as disk:
            report = disk.folder / "report.json"
            export = ("export", "--output", str(report))
            cancel_all(fault, 1)
            machine.do(*export)
            last = report.read_bytes()

            cancel_all(fault, 500)
            refused = machine.do(*export, code=1)
            assert_one_line(refused, f"{report}: No space left on device")
            assert report.read_bytes() == last
            assert [path.name for path in disk.folder.iterdir()] == [report.name]

            disk.grow("16m")
            machine.do(*export)
            assert len(json.loads(report.read_text())["dead_letters"]) == 501
