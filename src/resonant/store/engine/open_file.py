"""The file of an open SQLite database: notices that it was deleted or replaced."""

from pathlib import Path

from resonant.errors import StoreReplaced

# The smallest page size; an open database is at least this large.
_LEAST_BYTES = 512
_Identity = tuple[int, int]  # device and inode


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
    return (status.st_dev, status.st_ino) if status.st_size >= least_bytes else None
