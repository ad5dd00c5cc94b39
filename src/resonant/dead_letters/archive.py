"""The archive of a purge: JSON lines, synced before a row is removed, complete even after a crash or a full disk."""

from __future__ import annotations

import base64
import errno
import fcntl
import gzip
import json
import os
import re
import stat
import zlib
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from resonant.errors import ArchiveError
from resonant.files import open_private, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_CHUNK_BYTES = 1024 * 1024
_GZIP_FORMAT = 16 + zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b\x08"
# Every document of a purge (`read_history`) begins with this. Other files are refused: mending would truncate them.
_BEGINNING = b'{"event": {"id": "'


class Archive:
    """A file of JSON lines. ``append`` syncs the documents to disk before it returns, or adds none of them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._is_compressed = str(file.name).endswith(".gz")
        self._whole = 0  # the size up to which this process knows the file to be complete

    def append(self, documents: Iterable[dict[str, object]]) -> None:
        """Append these documents, one per line. Several processes may do so at once.

        Raises:
            ArchiveError: they cannot be written.
        """
        lines = "".join(
            json.dumps(document, ensure_ascii=False, default=_bytes) + "\n" for document in documents
        )
        data = lines.encode(errors="backslashreplace")
        # Each batch is its own gzip member, so that an incomplete one can be cut off.
        data = gzip.compress(data, compresslevel=6, mtime=0) if self._is_compressed else data
        try:
            with _alone(self._file.fileno()) as descriptor:
                # Another process may have been killed since; data after its incomplete batch would be lost.
                self._mend(descriptor)
                try:
                    _write_all(descriptor, data)
                    os.fsync(descriptor)
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(descriptor, self._whole)
                    raise
                self._whole += len(data)
        except OSError as error:
            raise ArchiveError(
                f"{self._file.name}: {error.strerror}; rows that were not archived were not purged"
            ) from None

    def mend(self) -> None:
        """Cut off an incomplete end, left by a killed process or a disk failure; its rows were not purged.

        Raises:
            OSError: the file cannot be read or truncated, or it is not an archive, so truncation could lose data.
        """
        with _alone(self._file.fileno()) as descriptor:
            self._mend(descriptor)

    def _mend(self, descriptor: int) -> None:
        """Cut off an incomplete end, under the lock; reads only bytes added since the last call."""
        size = os.fstat(descriptor).st_size
        if size < self._whole:  # another process truncated it
            self._whole = 0
        if size == self._whole:
            return
        if self._whole == 0 and not _is_archive(os.pread(descriptor, _CHUNK_BYTES, 0), self._is_compressed):
            raise OSError(errno.EINVAL, "is not an archive of a purge: choose another file")
        mended = _mended_members if self._is_compressed else _mended_lines
        self._whole = mended(descriptor, self._whole, size)
        if self._whole < size:
            os.ftruncate(descriptor, self._whole)


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open an archive to append to, readable only by its owner.

    Raises:
        ArchiveError: the file cannot be opened, or is not an archive; it stays unchanged.
    """
    try:
        file = open_private(path.expanduser(), "a+b", buffering=0)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}; nothing was purged") from None
    with file:
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            # A pipe cannot be synced. Since it is open for reading too, writes would block forever once it is full.
            raise ArchiveError(f"{path}: is a pipe: choose a file; nothing was purged")
        archive = Archive(file)
        try:
            archive.mend()
            # The name of a new file must be on disk too, not only its content.
            with suppress(OSError):  # an unreadable folder, or one that is not on a disk
                sync_folder(path.expanduser().resolve().parent)
        except OSError as error:
            raise ArchiveError(f"{path}: {error.strerror}; nothing was purged") from None
        yield archive


def _write_all(descriptor: int, data: bytes) -> None:
    # On a nearly full disk, a write is partial, and only the next write raises an error.
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


@contextmanager
def _alone(descriptor: int) -> Iterator[int]:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield descriptor
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _is_archive(head: bytes, is_compressed: bool) -> bool:
    """Return whether a file with this beginning is an archive, possibly with an incomplete first line."""
    if is_compressed:
        try:
            head = zlib.decompressobj(_GZIP_FORMAT).decompress(head, len(_BEGINNING))
        except zlib.error:
            return False
    return head.startswith(_BEGINNING) or _BEGINNING.startswith(head)


def _mended_lines(descriptor: int, start: int, size: int) -> int:
    """Return the end of the last complete line, at or after ``start``."""
    end = size
    while end > start:
        begin = max(start, end - _CHUNK_BYTES)
        at = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if at >= 0:
            end = begin + at + 1
            break
        end = begin
    if _is_document(os.pread(descriptor, size - end, end)):
        # Complete, but an editor removed the last line end. Keep it, since the row may be purged.
        _write_all(descriptor, b"\n")
        return size + 1
    return end


def _mended_members(descriptor: int, start: int, size: int) -> int:
    """Return the end of the last complete gzip member; reads all members from ``start`` on.

    Raises:
        OSError: complete members follow a damaged one, so the damage is not an incomplete end.
    """
    whole = _end_of_last_member(descriptor, start)
    if whole < size and _has_member(descriptor, whole + 1):
        raise OSError(
            errno.EINVAL, f"is damaged at byte {whole:,}, and more data follows: choose another file"
        )
    return whole


def _end_of_last_member(descriptor: int, start: int) -> int:
    whole = position = start
    inflate = zlib.decompressobj(_GZIP_FORMAT)
    while chunk := os.pread(descriptor, _CHUNK_BYTES, position):
        position += len(chunk)
        while chunk:
            try:
                inflate.decompress(chunk)
            except zlib.error:
                return whole
            if not inflate.eof:
                break
            chunk = inflate.unused_data
            whole = position - len(chunk)
            inflate = zlib.decompressobj(_GZIP_FORMAT)
    return whole


def _has_member(descriptor: int, start: int) -> bool:
    """Return whether a complete gzip member begins at or after ``start``."""
    while chunk := os.pread(descriptor, _CHUNK_BYTES + len(_GZIP_MAGIC) - 1, start):
        for found in re.finditer(_GZIP_MAGIC, chunk):
            begin = start + found.start()
            if _end_of_last_member(descriptor, begin) > begin:
                return True
        start += _CHUNK_BYTES
    return False


def _is_document(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _bytes(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)
