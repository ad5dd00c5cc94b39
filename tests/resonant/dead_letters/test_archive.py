"""An archive is a new file, whose earlier documents stay readable after a kill and on a full disk."""

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from resonant.dead_letters.archive import Archived, new_archive, read_archive
from resonant.delivery.retry import GiveUp
from resonant.errors import ArchiveError
from resonant.events import Event
from resonant.store import schema
from support.archives import complete_lines, read_documents

TEXT = "".join(f"{number:x}" for number in range(500))


@pytest.fixture(params=["purged.jsonl", "purged.jsonl.gz"])
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.fixture
def archive(request, tmp_path):
    """The path of the archive of a purge: with each kind of database another kind of file."""
    suffixes = {"sqlite": ".jsonl.gz", "postgresql": ".jsonl"}
    return tmp_path / f"purged{suffixes[request.node.callspec.params['store_url']]}"


@contextmanager
def small_disk(size):
    """Let no file grow beyond so many bytes: a write that begins below is done in part, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


EVENTS = [
    Event(type="t", source="/s", data={"a": "Zoë"}, id="evt_1", time="2026-01-31T12:00:00Z", subject="7"),
    Event(
        type="t",
        source="/s",
        data=b"\xff",
        id="1.5",
        time="2026-01-31T12:00:00Z",
        datacontenttype="image/png",
        dataschema="https://example.com/s",
        extensions={"n": 1, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "k=v", "yes": True},
    ),
    Event(
        type="t", source="/s", data="text", id="2", time="2026-01-31T12:00:00Z", datacontenttype="text/plain"
    ),
    Event(type="t", source="/s", id="3", time="2026-01-31T12:00:00Z"),
]


def numbers(path):
    return [document["number"] for document in read_documents(path)]


def contents(desk):
    """Return the rows of events by their source and id, without their keys."""
    rows = desk.rows(schema.events)
    return {(row["source"], row["id"]): {name: row[name] for name in row if name != "key"} for row in rows}


def test_each_document_is_a_line_of_a_private_file(path):
    with new_archive(path) as archive:
        archive.append([{"number": 1}, {"text": "Zoë \ud800", "body": b"\xff"}])
        archive.append([{"number": 3}])
    assert read_documents(path) == [{"number": 1}, {"text": "Zoë \ud800", "body": "/w=="}, {"number": 3}]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("written", [1, 300])
def test_if_a_process_is_killed_while_it_writes_every_earlier_batch_is_readable(path, written):
    with new_archive(path) as archive:
        archive.append([{"number": 1}, {"number": 2}])
        size = path.stat().st_size
        archive.append([{"number": 3, "text": TEXT}])
    os.truncate(path, size + written)  # what a killed process has written
    assert numbers(path) == [1, 2]
    assert len(complete_lines(path)[1]) == written


def test_a_disk_that_gets_full_in_the_middle_of_a_write_leaves_whole_documents(path):
    with new_archive(path) as archive:
        archive.append([{"number": 1}])
        size = path.stat().st_size
        with small_disk(size + 20), pytest.raises(ArchiveError) as full:
            archive.append([{"number": 2, "text": TEXT}])
        assert path.stat().st_size == size
    assert str(full.value) == f"{path}: File too large; rows that were not archived were not purged"
    assert complete_lines(path)[1] == b""
    assert numbers(path) == [1]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("purged.jsonl", ["purged-2.jsonl", "purged-3.jsonl"]),
        ("purged-2026-01-31.jsonl.gz", ["purged-2026-01-31-2.jsonl.gz", "purged-2026-01-31-3.jsonl.gz"]),
        ("none", ["none-2", "none-3"]),
        (".purged", [".purged-2", ".purged-3"]),
    ],
)
def test_an_existing_file_is_never_touched(tmp_path, name, names):
    (tmp_path / name).write_text("an order")
    for number, expected in enumerate(names):
        with new_archive(tmp_path / name) as archive:
            archive.append([{"number": number}])
        assert archive.path == tmp_path / expected
        assert numbers(archive.path) == [number]
    assert (tmp_path / name).read_text() == "an order"


def test_archives_created_at_the_same_time_are_different_files(path):
    def work(number):
        with new_archive(path) as archive:
            archive.append([{"number": number}])
        return archive.path

    with ThreadPoolExecutor(4) as threads:
        paths = list(threads.map(work, range(12)))
    assert len(set(paths)) == 12
    assert [numbers(each) for each in paths] == [[number] for number in range(12)]


def test_an_archive_without_a_document_is_removed_even_if_the_purge_fails(path):
    with pytest.raises(ConnectionError), new_archive(path):
        raise ConnectionError
    assert not path.exists()


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("nowhere/a.jsonl", "No such file or directory"),
        ("folder", "is not a regular file"),
        ("pipe", "is not a regular file"),
        ("/dev/null", "is not a regular file"),
    ],
)
def test_a_place_where_no_file_can_be_created_is_refused_in_one_line(tmp_path, place, why):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArchiveError) as refused, new_archive(tmp_path / place):
        pass
    assert str(refused.value) == f"{tmp_path / place}: {why}; nothing was purged"


def test_purged_events_come_back_as_they_were_with_their_endpoints_and_options(desk, archive):
    desk.enqueue(*EVENTS, policy="patient", max_attempts=3)
    leases = desk.claim()
    desk.deliver(leases[0])
    for lease in leases[1:]:
        desk.fail(lease, GiveUp("permanent"))
    before = contents(desk)
    desk.purge(archive=archive)

    archived = sorted(read_archive(archive), key=lambda each: each.event.id)

    statuses = {lease.event.id: "dead_letter" for lease in leases[1:]}
    assert archived == [
        Archived(event, "orders", statuses.get(event.id, "delivered"), "patient", 3)
        for event in sorted(EVENTS, key=lambda each: each.id)
    ]
    assert desk.enqueue(*(each.event for each in archived)).accepted == 4
    assert contents(desk) == before


@pytest.mark.parametrize("first", [0, 1])
def test_events_that_come_back_keep_their_webhook_ids_in_any_order(desk, archive, first):
    events = [Event(type="t", source=source, id="1", data=1) for source in ("/a", "/b")]
    desk.bury(*events)
    before = {row["source"]: row["webhook_id"] for row in desk.rows(schema.events)}
    desk.purge(archive=archive)
    archived = sorted((each.event for each in read_archive(archive)), key=lambda event: event.source)
    desk.enqueue(archived[first])
    desk.enqueue(archived[1 - first])
    assert {row["source"]: row["webhook_id"] for row in desk.rows(schema.events)} == before


def test_an_archive_names_events_by_source_and_id_and_has_every_part_of_them(desk, archive):
    desk.bury(EVENTS[1])
    [event], [delivery] = contents(desk).values(), desk.rows(schema.deliveries)
    desk.purge(archive=archive)
    [document] = read_documents(archive)
    assert document["event"] == event | {"body": "/w==", "extensions": {"n": 1, "yes": True}}
    assert document["delivery"] == {name: delivery[name] for name in delivery if name != "event_key"}
    assert (document["delivery"]["event_id"], document["delivery"]["source"]) == ("1.5", "/s")


def test_a_reader_leaves_out_the_incomplete_end_that_a_killed_purge_left(desk, archive):
    desk.bury(EVENTS[0])
    desk.purge(archive=archive)
    whole = archive.read_bytes()
    archive.write_bytes(whole + whole[: len(whole) // 2])
    assert [each.event for each in read_archive(str(archive))] == [EVENTS[0]]
