"""What Linux says about a database's file: who holds SQLite's write lock on it, and whether it is still where it was."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resonant.errors import StoreReplaced

if TYPE_CHECKING:
    from collections.abc import Iterator

# Where SQLite locks: a byte of the -shm file in WAL mode, and of the database itself before that (its "Write-Ahead Log"
# and "File Locking" pages).
_WAL_WRITE_BYTE = 120
_PENDING_BYTE = 0x4000_0000
# The smallest page: no database has a smaller file, once it is open.
_LEAST_BYTES = 512


def lock_holder(path: Path) -> str:
    """Name the process that keeps others from writing to an SQLite file, as far as this machine tells."""
    places = ((Path(f"{path}-shm"), _WAL_WRITE_BYTE), (path, _PENDING_BYTE))
    with suppress(OSError, ValueError):
        for pid, device_and_inode, start, end in _write_locks():
            for file, byte in places:
                with suppress(OSError):
                    status = file.stat()
                    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
                    if device_and_inode == f"{device}:{status.st_ino}" and start <= byte <= end:
                        return f"process {pid}{', which is stopped,' * _is_stopped(pid)}"
    return "another process"


def _write_locks() -> Iterator[tuple[int, str, int, float]]:
    # 16: POSIX  ADVISORY  WRITE 17588 fe:00:11207314 120 120
    for line in Path("/proc/locks").read_text().splitlines():
        match line.split():
            case [_, "POSIX", _, "WRITE", pid, file, start, end] if int(pid) > 0:  # else of another container
                yield int(pid), file, int(start), float("inf" if end == "EOF" else end)


def _is_stopped(pid: int) -> bool:
    with suppress(OSError):
        # The state follows the name, which is in parentheses and may hold any character.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


class _Identity(NamedTuple):
    device: int
    inode: int


class OpenFile:
    """A database's file, held against what its path names later: SQLite would write to a deleted one without a word.

    Args:
        path: of the file, which is there.
        name: of the database, for the message.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._log = Path(f"{path}-wal")
        self._name = name
        self._opened = _identity(path)

    def log_identity(self) -> _Identity | None:
        """Return which file the log is, as long as it is open; None where there is none."""
        return _identity(self._log)

    def check(self, log: _Identity | None = None) -> None:
        """See whether the path still names the file that is open, and its log the one that was written, if one is given.

        Raises:
            StoreReplaced: it does not.
        """
        if _identity(self._path, _LEAST_BYTES if log else 0) != self._opened or (
            log and self.log_identity() != log
        ):
            raise StoreReplaced(
                f"{self._name}: the file, or its -wal beside it, was deleted or replaced while it was open, and the last "
                "changes are not stored: look what is there, then run the same command again"
            )


def _identity(path: Path, least_bytes: int = 0) -> _Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Identity(status.st_dev, status.st_ino) if status.st_size >= least_bytes else None
