"""Files that are complete or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from resonant.errors import ResonantError

if TYPE_CHECKING:
    from collections.abc import Iterator

Write = Callable[[str], None]


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o600) -> Iterator[Write]:
    """Write a text file that is complete or not there: a temporary one beside it takes its place, synced, at the end.

    Only its owner may read it, unless ``mode`` says otherwise. A symbolic link is followed.

    Raises:
        ResonantError: it cannot be written; what was there before is untouched.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        # Replacing it would turn /dev/null into a file.
        raise ResonantError(f"{path} is no regular file (- is standard output)")
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise ResonantError(f"{path}: {error.strerror}") from None
    try:
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - a descriptor

            def write(text: str) -> None:
                # Within a transaction an OSError would be taken for the database's.
                try:
                    file.write(text)
                except OSError as error:
                    raise ResonantError(f"{path}: {error.strerror}") from None

            yield write
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        Path(name).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResonantError(f"{path}: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
