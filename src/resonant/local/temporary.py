"""A private folder for the temporary files of a worker: Prefect writes each run's whole environment into one."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from resonant.files import make_private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "TMPDIR"


@contextlib.contextmanager
def temporary_folder(home: Path) -> Iterator[Path]:
    """Provide a new folder during the block, and remove those that killed processes have left.

    Args:
        home: contains these folders; an absolute path.
    """
    parent = home / "tmp"
    make_private_folder(parent)
    parent.chmod(0o700)
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    used = set(_used_folders())
    for folder in parent.resolve().iterdir():
        if folder not in used:
            shutil.rmtree(folder, ignore_errors=True)


def _used_folders() -> Iterator[Path]:
    """Yield the temporary folder of each process of this user: a killed worker may still have runs."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if folder := process.environ().get(VARIABLE):
                yield Path(folder).resolve()
