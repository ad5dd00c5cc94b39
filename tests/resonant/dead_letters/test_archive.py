"""An archive is whole, whatever happened to the process or the disk that wrote it."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import pytest

from resonant.dead_letters.archive import opened_archive
from resonant.errors import ArchiveError

NAMES = ("purged.jsonl", "purged.jsonl.gz")
TEXT = "".join(f"{number:x}" for number in range(500))
# Appends a document to the archive of that name, and is killed as soon as the file would get larger than that.
KILLED = """
import resource, signal, sys
from pathlib import Path
from resonant.dead_letters.archive import opened_archive

name, size, text = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
with opened_archive(Path(name)) as archive:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    archive.append([{"event": {"id": "evt_torn", "text": text}}])
"""
NOISE = Random(0).randbytes(2_000_000)


def dead_letter(number, text=""):
    """Begin as the documents of a purge do."""
    return {"event": {"id": f"evt_{number}", "text": text}}


def read(path):
    data = path.read_bytes()
    return [
        json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
    ]


def numbers(path):
    return [int(document["event"]["id"].removeprefix("evt_")) for document in read(path)]


@pytest.fixture(params=NAMES)
def path(request, tmp_path):
    return tmp_path / request.param


def append(path, *documents):
    with opened_archive(path) as archive:
        archive.append(documents)


def kill_in_the_middle_of_a_write(path, written):
    """Let another process be killed when so many bytes of what it appends are written."""
    size = path.stat().st_size + written
    command = [sys.executable, "-c", KILLED, str(path), str(size), TEXT]
    assert subprocess.run(command, check=False).returncode == -signal.SIGXFSZ
    assert path.stat().st_size == size


@contextmanager
def small_disk(size):
    """Let no file grow beyond so many bytes: a write that begins below is done in part, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_appended_follows_what_was_there(path):
    append(path, dead_letter(1), {"text": "Zoë \ud800", "body": b"\xff"})
    append(path, dead_letter(3))
    assert [document.get("event", {}).get("id") for document in read(path)] == ["evt_1", None, "evt_3"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_disk_that_gets_full_in_the_middle_of_a_write_leaves_what_was_there(path):
    append(path, dead_letter(1))
    size = path.stat().st_size
    with (
        small_disk(size + 20),
        pytest.raises(ArchiveError, match="rows that were not archived were not purged"),
    ):
        append(path, dead_letter(2, TEXT), dead_letter(3))
    assert path.stat().st_size == size
    assert numbers(path) == [1]


def test_what_a_full_disk_left_and_could_not_be_cut_then_is_cut_before_the_next_is_appended(
    path, monkeypatch
):
    def failing(*_arguments):
        raise OSError

    with opened_archive(path) as archive:
        archive.append([dead_letter(1)])
        size = path.stat().st_size
        with monkeypatch.context() as patched, small_disk(size + 20):
            patched.setattr("os.ftruncate", failing)
            with pytest.raises(ArchiveError):
                archive.append([dead_letter(2, TEXT)])
        assert path.stat().st_size == size + 20
        archive.append([dead_letter(3)])
    assert numbers(path) == [1, 3]


@pytest.mark.parametrize("cut", [2, 5, 20])
def test_a_torn_end_is_taken_off_before_anything_is_appended(path, cut):
    append(path, dead_letter(1))
    append(path, dead_letter(2, "something long enough"))
    path.write_bytes(path.read_bytes()[:-cut])
    append(path, dead_letter(3))
    assert numbers(path) == [1, 3]


def test_a_first_write_that_was_torn_anywhere_leaves_an_empty_archive(path):
    append(path, dead_letter(1, "something long enough"))
    data = path.read_bytes()
    for written in range(len(data) - 1):
        path.write_bytes(data[:written])
        append(path, dead_letter(2))
        assert numbers(path) == [2]


def test_a_last_document_that_lacks_only_the_end_of_its_line_is_kept(tmp_path):
    path = tmp_path / "purged.jsonl"
    for last in (1, 2):
        append(path, dead_letter(last))
        path.write_bytes(path.read_bytes()[:-1])  # as some editors do
    append(path, dead_letter(3))
    assert numbers(path) == [1, 2, 3]


def test_long_lines_and_many_members_are_read_back(path):
    for number in range(5):
        append(path, dead_letter(number, str(number) * 700_000))
    path.write_bytes(path.read_bytes()[:-3])
    append(path, dead_letter(9))
    assert numbers(path) == [0, 1, 2, 3, 9]


def test_two_at_once_do_not_mix(path):
    def work(archive):
        for number in range(40):
            archive.append([dead_letter(number, "x" * 3_000)])

    with opened_archive(path) as one, opened_archive(path) as other, ThreadPoolExecutor(2) as threads:
        for job in [threads.submit(work, archive) for archive in (one, other)]:
            job.result()
    assert sorted(numbers(path)) == sorted([*range(40), *range(40)])


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("written", [1, 12, 300])
def test_nothing_is_appended_behind_what_another_process_left_torn(path, before, written):
    with opened_archive(path) as archive:
        for number in range(before):
            archive.append([dead_letter(number)])
        kill_in_the_middle_of_a_write(path, written)
        archive.append([dead_letter(8)])
    append(path, dead_letter(9))
    assert numbers(path) == [*range(before), 8, 9]


def test_what_another_process_has_appended_whole_stays_when_it_is_killed_later(path):
    with opened_archive(path) as archive:
        archive.append([dead_letter(1)])
        append(path, dead_letter(2), dead_letter(3))
        append(path, dead_letter(4))
        kill_in_the_middle_of_a_write(path, 100)
        archive.append([dead_letter(5)])
    assert numbers(path) == [1, 2, 3, 4, 5]


def test_an_archive_that_was_emptied_meanwhile_is_gone_on_with(path):
    with opened_archive(path) as archive:
        archive.append([dead_letter(1, TEXT)])
        path.write_bytes(b"")  # as when logs are rotated
        archive.append([dead_letter(2)])
        append(path, dead_letter(3))
        archive.append([dead_letter(4)])
    assert numbers(path) == [2, 3, 4]


def test_an_append_reads_what_others_have_added_and_nothing_else(path, monkeypatch):
    append(path, dead_letter(0, "".join(f"{number:x}" for number in range(100_000))))
    pread, looked = os.pread, []

    def watched(descriptor, count, offset):
        looked.append(offset)
        return pread(descriptor, count, offset)

    with opened_archive(path) as archive:
        archive.append([dead_letter(1)])
        size = path.stat().st_size
        append(path, dead_letter(2))
        monkeypatch.setattr("os.pread", watched)
        archive.append([dead_letter(3)])
        assert min(looked) == size
        looked.clear()
        archive.append([dead_letter(4)])
        assert looked == []
    assert numbers(path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("notes.txt", b"a line without an end", id="text"),
        pytest.param("notes.txt", b"a line\nand one without an end", id="lines of text"),
        pytest.param("notes.txt", b"\n", id="an empty line"),
        pytest.param("order.json", b'{"id": "evt_1", "type": "order.paid"}', id="a document"),
        pytest.param("order.json", b'{"event": "order.paid", "id": 1}', id="a document with an event"),
        pytest.param("order.json", b'{\n  "event": {"id": "evt_1"}\n}', id="a document over many lines"),
        pytest.param("events.jsonl", b'{"type": "a"}\n{"type": "b"}', id="events"),
        pytest.param(
            "purged.jsonl", gzip.compress(b'{"event": {"id": "evt_1"}}\n'), id="gzip by another name"
        ),
        pytest.param("purged.jsonl.gz", b'{"event": {"id": "evt_1"}}\n', id="no gzip"),
        pytest.param("events.jsonl.gz", gzip.compress(b'{"type": "a"}\n') * 2, id="gzip"),
        pytest.param("events.jsonl.gz", gzip.compress(b'{"type": "a"}\n')[:-3], id="gzip that is torn"),
        pytest.param("backup.tar.gz", gzip.compress(NOISE)[:-1], id="gzip of a large file that is torn"),
    ],
)
def test_another_file_is_refused_and_left_as_it_is(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ArchiveError) as refused, opened_archive(path):
        pass
    said = "is not an archive of a purge: choose another file; nothing was purged"
    assert str(refused.value) == f"{path}: {said}"
    assert path.read_bytes() == data


@pytest.mark.parametrize("damaged", [200, 1024 * 1024, 2_000_000])
def test_what_follows_damage_is_never_cut_off(tmp_path, damaged):
    path = tmp_path / "purged.jsonl.gz"
    append(path, dead_letter(1))
    member = path.read_bytes()
    append(path, dead_letter(2, "something long enough"))
    torn = path.read_bytes()[:-10]
    path.write_bytes((torn + NOISE)[: len(member) + damaged] + member)
    data = path.read_bytes()
    said = f"is damaged at byte {len(member)}, and more data follows: choose another file; nothing was purged"
    with pytest.raises(ArchiveError, match=said):
        append(path, dead_letter(3))
    assert path.read_bytes() == data


def test_an_archive_that_cannot_be_opened_is_one_clear_line(tmp_path):
    with pytest.raises(ArchiveError, match="No such file or directory; nothing was purged"):
        append(tmp_path / "nowhere" / "a.jsonl", {})


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match="pipe: is a pipe: choose a file; nothing was purged"):
        append(tmp_path / "pipe", {})
