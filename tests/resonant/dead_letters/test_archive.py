"""An archive is a new file, whose earlier documents stay readable after a kill and on a full disk."""

from __future__ import annotations

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from resonant.dead_letters.archive import new_archive
from resonant.errors import ArchiveError
from support.archives import complete_lines, read_archive

TEXT = "".join(f"{number:x}" for number in range(500))


@pytest.fixture(params=["purged.jsonl", "purged.jsonl.gz"])
def path(request, tmp_path):
    return tmp_path / request.param


@contextmanager
def small_disk(size):
    """Let no file grow beyond so many bytes: a write that begins below is done in part, as on a disk that gets full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def numbers(path):
    return [document["number"] for document in read_archive(path)]


def test_each_document_is_a_line_of_a_private_file(path):
    with new_archive(path) as archive:
        archive.append([{"number": 1}, {"text": "Zoë \ud800", "body": b"\xff"}])
        archive.append([{"number": 3}])
    assert read_archive(path) == [{"number": 1}, {"text": "Zoë \ud800", "body": "/w=="}, {"number": 3}]
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
        paths = list(threads.map(work, range(20)))
    assert len(set(paths)) == 20
    assert [numbers(each) for each in paths] == [[number] for number in range(20)]


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
