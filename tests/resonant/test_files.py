"""Files are complete or absent, and temporary files of killed writers are removed."""

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from resonant.errors import ResonantError
from resonant.files import atomic_file, open_private, shorten_log
from support.programs import lacking

HOUR = 3600


def aged(path, seconds):
    path.touch()
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def write(path):
    with atomic_file(path) as into:
        into("whole")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("target", ["metrics.prom", "link"])
def test_files_of_a_killed_writer_are_removed_after_an_hour(tmp_path, target):
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "link").symlink_to(folder / "metrics.prom")
    for name in ("abcd_123", "zzzzzzzz"):
        aged(folder / f".metrics.prom.{name}", HOUR + 60)
    for _ in range(20):  # another Python, whose names have another shape, fails here
        fd, name = tempfile.mkstemp(prefix=".metrics.prom.", dir=folder)
        os.close(fd)
        os.utime(name, (0, 0))
    aged(folder / ".metrics.prom.recent_1", HOUR - 60)
    write(folder / target)  # the file or a link to it
    assert names(folder) == [".metrics.prom.recent_1", "link", "metrics.prom"]
    assert (folder / "metrics.prom").read_text() == "whole"


OTHERS = (
    *("metrics.prom.abcd1234", ".metrics.prom.abcd123", ".metrics.prom.abcd12345", ".metrics.prom.ABCD1234"),
    *(".metrics.prom.abcd.123", ".metricsxprom.abcd1234", ".other.prom.abcd1234", ".metrics.prom.swp"),
    *("x.metrics.prom.abcd1234", ".metrics.prom.abcd1234\n"),
)


def test_no_other_file_folder_or_link_is_touched_however_old(tmp_path):
    for name in OTHERS:
        aged(tmp_path / name, 1000 * HOUR)
    (tmp_path / ".metrics.prom.aaaaaaaa").mkdir()
    (tmp_path / ".metrics.prom.bbbbbbbb").symlink_to(tmp_path / OTHERS[0])
    for name in ("aaaaaaaa", "bbbbbbbb"):
        os.utime(tmp_path / f".metrics.prom.{name}", (0, 0), follow_symlinks=False)
    before = names(tmp_path)
    write(tmp_path / "metrics.prom")
    assert names(tmp_path) == sorted([*before, "metrics.prom"])


@pytest.fixture
def sticky(tmp_path):
    """A folder for everyone, with a link of another user to a folder of this one."""
    if os.geteuid() != 0:
        lacking("this test makes a file of another user: run it as root")
    folder = tmp_path / "sticky"
    folder.mkdir()
    folder.chmod(0o1777)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes").write_text("precious")
    for name, target in (("report", tmp_path / "home" / "notes"), ("folder", tmp_path / "home")):
        (folder / name).symlink_to(target)
        os.lchown(folder / name, 65534, 65534)
    (folder / "own").symlink_to("report")
    return folder


@pytest.mark.parametrize("name", ["report", "folder/notes", "folder/new", "own", "../sticky/report"])
@pytest.mark.parametrize("opened", [write, lambda path: open_private(path, "ab")], ids=["whole", "append"])
def test_another_users_link_in_a_folder_for_everyone_is_not_followed(sticky, name, opened):
    with pytest.raises((ResonantError, PermissionError), match=r"another user made the link .*/sticky/"):
        opened(sticky / name)
    assert names(sticky.parent / "home") == ["notes"]
    assert (sticky.parent / "home" / "notes").read_text() == "precious"


def test_a_private_file_is_opened_for_bytes_without_a_warning(tmp_path, recwarn):
    with open_private(tmp_path / "log", "ab") as log:
        log.write(b"line\n")
    assert [str(each.message) for each in recwarn] == []


def test_other_links_are_followed(tmp_path, monkeypatch):
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "sticky" / "own").symlink_to("../links/deep/../file")
    (tmp_path / "links").symlink_to("real")
    (tmp_path / "real" / "file").symlink_to(tmp_path / "real" / "metrics.prom")
    monkeypatch.chdir(tmp_path)
    write(Path("sticky/own"))
    assert (tmp_path / "real" / "metrics.prom").read_text() == "whole"
    assert (tmp_path / "sticky" / "own").is_symlink()
    assert (tmp_path / "real" / "file").is_symlink()


def test_an_absolute_path_needs_no_working_folder(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    write(tmp_path / "report")
    open_private(tmp_path / "log", "ab").close()
    assert names(tmp_path) == ["log", "report"]


def test_a_link_in_a_circle_is_refused(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ResonantError, match="circle: Too many levels of symbolic links"):
        write(tmp_path / "circle")


def test_a_textfile_collector_does_not_read_an_incomplete_file(tmp_path):
    with atomic_file(tmp_path / "metrics.prom"):
        [name] = names(tmp_path)
    assert name.startswith(".metrics.prom.")
    assert not name.endswith(".prom")


def test_the_file_is_on_disk_before_it_gets_its_name_and_the_name_is_on_disk_after(tmp_path, monkeypatch):
    """A power cut leaves the old file or the whole new one."""
    target = tmp_path / "metrics.prom"
    calls = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(fd):
        status = os.fstat(fd)
        is_folder = stat.S_ISDIR(status.st_mode)
        calls.append(("fsync", tmp_path if is_folder else target, status.st_size if not is_folder else None))
        assert os.path.samestat(status, tmp_path.stat() if is_folder else next(tmp_path.iterdir()).stat())
        fsync(fd)

    def watched_replace(self, name):
        calls.append(("rename", Path(name), None))
        return replace(self, name)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write(target)
    assert calls == [("fsync", target, len("whole")), ("rename", target, None), ("fsync", tmp_path, None)]


def test_a_large_log_keeps_its_last_lines_and_its_writer_continues_after_them(tmp_path):
    path = tmp_path / "log"
    shorten_log(path, most_bytes=100, kept_bytes=35)
    assert not path.exists()
    with open_private(path, "ab", buffering=0) as log:
        for number in range(10):
            log.write(b"line %03d\n" % number)
        shorten_log(path, most_bytes=100, kept_bytes=35)
        assert path.read_text().count("\n") == 10, "it is small enough"
        log.write(b"another 1\n" * 2)
        shorten_log(path, most_bytes=100, kept_bytes=35)
        log.write(b"after\n")
    assert path.read_text() == "line 009\nanother 1\nanother 1\nafter\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
