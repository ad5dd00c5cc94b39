"""Temporary files of a worker: in a private folder, which the next start removes if the process was killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

from resonant.local.temporary import temporary_folder


def test_only_the_owner_can_use_the_folder_and_it_is_removed_at_the_end(tmp_path):
    (tmp_path / "tmp").mkdir(mode=0o755)
    with temporary_folder(tmp_path) as folder:
        assert folder.parent == tmp_path / "tmp"
        assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)} == {0o700}
        (folder / "environment.json").write_text("a secret")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_folder_that_a_killed_process_left_is_removed_and_one_of_a_living_process_is_kept(tmp_path):
    abandoned, used = tmp_path / "tmp" / "abandoned", tmp_path / "tmp" / "used"
    for folder in (abandoned, used):
        folder.mkdir(parents=True)
        (folder / "environment.json").write_text("a secret")
    command = [sys.executable, "-c", "print('ready', flush=True); input()"]
    environment = os.environ | {"TMPDIR": str(used)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as living:
        assert living.stdout.readline() == "ready\n"
        with temporary_folder(tmp_path):
            assert not abandoned.exists()
            assert used.exists()
        (tmp_path / "link").symlink_to(tmp_path)
        with temporary_folder(tmp_path / "link"):
            assert used.exists(), "the home folder has another name now"
        living.stdin.close()
    with temporary_folder(tmp_path):
        assert not used.exists()
