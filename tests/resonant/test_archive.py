"""An archive is whole, whatever happened to the process or the disk that wrote it."""

from __future__ import annotations

import gzip
import json
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from resonant.archive import ArchiveError, opened_archive

NAMES = ("purged.jsonl", "purged.jsonl.gz")


def read(path):
    data = path.read_bytes()
    return [
        json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
    ]


@pytest.fixture(params=NAMES)
def path(request, tmp_path):
    return tmp_path / request.param


def append(path, *documents):
    with opened_archive(path) as archive:
        archive.append(documents)


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
    append(path, {"n": 1}, {"text": "Zoë \ud800", "body": b"\xff"})
    append(path, {"n": 3})
    assert [document.get("n") for document in read(path)] == [1, None, 3]
    assert path.stat().st_mode & 0o077 == 0


def test_a_disk_that_gets_full_in_the_middle_of_a_write_leaves_what_was_there(path):
    append(path, {"n": 1})
    size = path.stat().st_size
    with small_disk(size + 20), pytest.raises(ArchiveError, match="what was not archived was not purged"):
        append(path, {"n": 2, "text": "x" * 50}, {"n": 3})
    assert path.stat().st_size == size
    assert read(path) == [{"n": 1}]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_end_is_taken_off_before_anything_is_appended(path, cut):
    append(path, {"n": 1})
    append(path, {"n": 2, "text": "something long enough"})
    path.write_bytes(path.read_bytes()[:-cut])
    append(path, {"n": 3})
    assert [document["n"] for document in read(path)] == [1, 3]


def test_a_first_write_that_was_torn_leaves_an_empty_archive(path):
    append(path, {"n": 1, "text": "something long enough"})
    path.write_bytes(path.read_bytes()[:10])
    append(path, {"n": 2})
    assert read(path) == [{"n": 2}]


def test_long_lines_and_many_members_are_read_back(path):
    for number in range(5):
        append(path, {"n": number, "text": str(number) * 700_000})
    path.write_bytes(path.read_bytes()[:-3])
    append(path, {"n": 9})
    assert [document["n"] for document in read(path)] == [0, 1, 2, 3, 9]


def test_two_at_once_do_not_mix(path):
    with opened_archive(path) as one, opened_archive(path) as other, ThreadPoolExecutor(2) as threads:
        jobs = [
            threads.submit(archive.append, [{"n": n, "text": "x" * 3_000}])
            for n in range(40)
            for archive in (one, other)
        ]
        for job in jobs:
            job.result()
    assert sorted(document["n"] for document in read(path)) == sorted([*range(40), *range(40)])


def test_an_archive_that_cannot_be_opened_is_one_clear_line(tmp_path):
    with pytest.raises(ArchiveError, match="No such file or directory; nothing was purged"):
        append(tmp_path / "nowhere" / "a.jsonl", {})
