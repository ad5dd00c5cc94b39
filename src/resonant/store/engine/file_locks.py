"""The files of an SQLite database on Linux: the holder of the write lock, and detection of a replaced file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resonant.errors import StoreReplaced

if TYPE_CHECKING:
    from collections.abc import Iterator

# The bytes that SQLite locks: in WAL mode in the -shm file, otherwise in the database (SQLite's manual, "Write-Ahead
# Logging" and "File Locking").
_WAL_WRITE_BYTE = 120
_PENDING_BYTE = 0x4000_0000
# The smallest page size; an open database is at least this large.
_LEAST_BYTES = 512


def lock_holder(path: Path) -> str:
    """Name the process that holds the write lock of an SQLite file, if the system reveals it."""
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
            case [_, "POSIX", _, "WRITE", pid, file, start, end] if int(pid) > 0:  # 0: in another container
                yield int(pid), file, int(start), float("inf" if end == "EOF" else end)


def _is_stopped(pid: int) -> bool:
    with suppress(OSError):
        # The state follows the name, which may contain spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


class _Identity(NamedTuple):
    device: int
    inode: int


class OpenFile:
    """The file of an open database. Detects a replaced file, since SQLite silently writes to a deleted one.

    Args:
        path: the path of the existing file.
        name: the database's name, for the message.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._log = Path(f"{path}-wal")
        self._name = name
        self._opened = _identity(path)

    def log_identity(self) -> _Identity | None:
        """Return the identity of the log file; None if it does not exist."""
        return _identity(self._log)

    def check(self, log: _Identity | None = None) -> None:
        """Check that the path still names the open file and, if ``log`` is given, that the log is the one written to.

        Raises:
            StoreReplaced: the file or its log was deleted or replaced.
        """
        if _identity(self._path, _LEAST_BYTES if log else 0) != self._opened or (
            log and self.log_identity() != log
        ):
            raise StoreReplaced(
                f"{self._name}: the file or its -wal was deleted or replaced while it was open, so the last changes are "
                "not stored: restore the file, remove the -wal and -shm of any other file next to it, then run the same command "
                "again"
            )


def _identity(path: Path, least_bytes: int = 0) -> _Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Identity(status.st_dev, status.st_ino) if status.st_size >= least_bytes else None
