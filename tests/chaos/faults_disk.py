"""A small disk, which can be full and have space again."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.programs import lacking

_BLOCK = bytes(4096)


@dataclass
class Disk:
    """A disk of its own below ``folder``."""

    folder: Path

    def fill(self) -> None:
        """Take all of the space that is left."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while True:
                os.write(descriptor, _BLOCK)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(descriptor)

    def free(self) -> None:
        self._filler.unlink()

    def grow(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    """Mount a disk of this size; where that may not be done the test is skipped, and on CI it fails."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        lacking(
            "this test mounts a small disk, which only root may: run it as root, or `unshare -rm` before pytest"
        )
    try:
        yield Disk(folder)
    finally:
        # Lazily, since this process may still have files open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
