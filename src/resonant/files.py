"""Writes files atomically, and creates private files."""

import errno
import glob
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from resonant.errors import ResonantError

Write = Callable[[str], None]
# For metrics, which contain no secrets: a node exporter runs as another user.
READABLE_BY_ALL = 0o644

# The age, in seconds, at which a temporary file counts as abandoned.
_LEFT_OVER_SECONDS = 3600
# Everyone may create files, and only the owner of a file may remove it.
_STICKY = stat.S_ISVTX | stat.S_IWOTH
_MOST_LINKS = 40  # as Linux
_RANDOM = "[a-z0-9_]" * 8  # mkstemp's random part, after the prefix


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o600) -> Iterator[Write]:
    """Write a text file atomically: a temporary file in the same folder is synced and replaces it at the end.

    By default, only the owner may read the file. Symbolic links are followed, except those that another user made in a
    folder where everyone may create files, such as /tmp. Temporary files that killed processes left more
    than an hour ago are removed.

    Raises:
        ResonantError: it cannot be written; an existing file is unchanged.
    """
    with _one_line(path):
        path = _follow(path)
    if path.exists() and not path.is_file():
        # Replacing it would turn /dev/null into a file.
        raise ResonantError(f"{path} is not a regular file (- is standard output)")
    with _one_line(path):
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - a descriptor

                def write(text: str) -> None:
                    # In a transaction, an OSError would be mistaken for a database error.
                    with _one_line(path):
                        file.write(text)

                yield write
                file.flush()
                os.fchmod(fd, mode)
                os.fsync(fd)
            Path(name).replace(path)
            sync_folder(path.parent)
            with suppress(OSError):
                _sweep(path)
        finally:
            with suppress(FileNotFoundError):
                Path(name).unlink()


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResonantError(f"{path}: {error.strerror}") from None


def open_private(path: Path, mode: str, *, buffering: int = -1) -> IO[bytes]:
    """Open a binary file; if it is new, only its owner may read and write it. Links are followed as in ``atomic_file``."""
    _follow(path)
    return open(path, mode, buffering, opener=lambda name, flags: os.open(name, flags, 0o600))


def create_private(path: Path, content: bytes) -> None:
    """Create a file together with its content; only its owner may read and write it.

    Raises:
        FileExistsError: the path exists.
        OSError: it cannot be created.
    """
    _follow(path)
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
        try:
            path.hardlink_to(name)
        except FileExistsError:
            raise
        except OSError:  # the file system has no links
            with open_private(path, "xb") as file:
                file.write(content)
    finally:
        Path(name).unlink()


def shorten_log(path: Path, *, most_bytes: int, kept_bytes: int) -> None:
    """Remove all but the last lines of a log that has grown too large. Other processes may append to it, and lose a few lines.

    This needs no free disk space: the disk may be full.

    Args:
        path: the log, which its writers opened for appending.
        most_bytes: the size up to which it is left as it is.
        kept_bytes: how much of a larger log is kept.
    """
    with suppress(OSError), path.open("r+b") as log:
        if os.fstat(log.fileno()).st_size <= most_bytes:
            return
        log.seek(-kept_bytes, os.SEEK_END)
        lines = log.read().partition(b"\n")[2]
        log.truncate(0)
        with path.open("ab") as end:  # where other processes append now
            end.write(lines)


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


def _follow(path: Path) -> Path:
    """Resolve symbolic links by the rule of Linux's ``fs.protected_symlinks``, for those within the path too.

    Raises:
        OSError: a link leads in a circle, or was made by another user in a folder with the sticky bit.
    """
    path = path.absolute()
    for _ in range(_MOST_LINKS):
        link = next((each for each in (*reversed(path.parents), path) if each.is_symlink()), None)
        if link is None:
            return Path(os.path.normpath(path))
        folder = link.parent.stat()
        if folder.st_mode & _STICKY == _STICKY and link.lstat().st_uid not in {os.geteuid(), folder.st_uid}:
            raise PermissionError(errno.EACCES, f"another user made the link {link}: name another file")
        path = link.parent / link.readlink() / path.relative_to(link)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _sweep(path: Path) -> None:
    """Remove old temporary files for this path, which killed processes left behind."""
    old = time.time() - _LEFT_OVER_SECONDS
    for each in path.parent.glob(f".{glob.escape(path.name)}.{_RANDOM}"):
        with suppress(OSError):  # another user's file, or another process removed it
            status = each.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mtime < old:
                each.unlink()
