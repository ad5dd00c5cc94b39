"""Writes files atomically, and creates private files."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from resonant.errors import ResonantError

if TYPE_CHECKING:
    from collections.abc import Iterator

Write = Callable[[str], None]
# For metrics, which contain no secrets: a node exporter runs as another user.
READABLE_BY_ALL = 0o644

# The age, in seconds, at which a temporary file counts as abandoned.
_LEFT_OVER_SECONDS = 3600
_RANDOM = "[a-z0-9_]{8}"  # mkstemp's random part, after the prefix


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o600) -> Iterator[Write]:
    """Write a text file atomically: a temporary file in the same folder is synced and replaces it at the end.

    By default, only the owner may read the file. Symbolic links are followed. Temporary files that killed processes left more
    than an hour ago are removed.

    Raises:
        ResonantError: it cannot be written; an existing file is unchanged.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        # Replacing it would turn /dev/null into a file.
        raise ResonantError(f"{path} is not a regular file (- is standard output)")
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ResonantError(f"{path}: {error.strerror}") from None
    try:
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - a descriptor

            def write(text: str) -> None:
                # In a transaction, an OSError would be mistaken for a database error.
                try:
                    file.write(text)
                except OSError as error:
                    raise ResonantError(f"{path}: {error.strerror}") from None

            yield write
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        Path(name).replace(path)
        sync_folder(path.parent)
        _sweep(path)
    except OSError as error:
        raise ResonantError(f"{path}: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


def open_private(path: Path, mode: str, *, buffering: int = -1) -> IO[bytes]:
    """Open a binary file; if it is new, only its owner may read and write it."""
    return open(path, mode, buffering, opener=lambda name, flags: os.open(name, flags, 0o600))


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names of its files are on disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents, private to the owner."""
    for each in (*reversed(folder.parents), folder):
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)


def _sweep(path: Path) -> None:
    """Remove old temporary files for this path, which killed processes left behind."""
    left_over = re.compile(re.escape(f".{path.name}.") + _RANDOM)
    old = time.time() - _LEFT_OVER_SECONDS
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            with suppress(OSError):  # another user's file, or another process removed it
                if (
                    left_over.fullmatch(entry.name)
                    and entry.is_file(follow_symlinks=False)
                    and entry.stat(follow_symlinks=False).st_mtime < old
                ):
                    Path(entry).unlink()
