"""The archive of a purge: JSON lines, on disk before a row goes, whole whatever happens to the process or the disk."""

from __future__ import annotations

import base64
import fcntl
import gzip
import json
import os
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from resonant.errors import ResonantError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_CHUNK_BYTES = 1024 * 1024
_GZIP_FORMAT = 16 + zlib.MAX_WBITS


class ArchiveError(ResonantError):
    """The archive cannot be written; what was not archived was not purged."""


class Archive:
    """A file of JSON lines to append to; what is appended is on disk when that returns, or not in the file at all."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_compressed = str(file.name).endswith(".gz")

    def append(self, documents: Iterable[dict[str, object]]) -> None:
        """Add these documents, a line each; two processes may do so at once.

        Raises:
            ArchiveError: they cannot be written.
        """
        lines = "".join(
            json.dumps(document, ensure_ascii=False, default=_bytes) + "\n" for document in documents
        )
        data = lines.encode(errors="backslashreplace")
        # Each batch is a gzip member of its own, so that one that is cut short can be taken off again.
        data = gzip.compress(data, compresslevel=6, mtime=0) if self._is_compressed else data
        descriptor = self._file.fileno()
        with _alone(descriptor):
            size = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise ArchiveError(
                    f"{self._file.name}: {error.strerror}; what was not archived was not purged"
                ) from None

    def mend(self) -> None:
        """Take off what a killed process or a lost disk left half written at the end; its rows were not purged."""
        descriptor = self._file.fileno()
        with _alone(descriptor), open(self._file.name, "rb") as reader:  # noqa: PTH123 - by the name it was opened with
            size = os.fstat(descriptor).st_size
            whole = _end_of_last_member(reader) if self._is_compressed else _end_of_last_line(reader, size)
            if whole < size:
                os.ftruncate(descriptor, whole)


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open an archive to append to, readable by its owner alone.

    Raises:
        ArchiveError: it cannot be opened.
    """
    try:
        file = open(path.expanduser(), "ab", buffering=0, opener=_for_its_owner_alone)  # noqa: SIM115 - closed below, after errors of opening alone were caught
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}; nothing was purged") from None
    with file:
        archive = Archive(file)
        try:
            _sync_folder(path.expanduser())
            if path.expanduser().is_file():
                archive.mend()
        except OSError as error:
            raise ArchiveError(f"{path}: {error.strerror}; nothing was purged") from None
        yield archive


def _write_all(descriptor: int, data: bytes) -> None:
    # A disk that gets full takes a part, and says so only when asked again.
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _end_of_last_line(reader: BinaryIO, size: int) -> int:
    end = size
    while end > 0:
        start = max(0, end - _CHUNK_BYTES)
        reader.seek(start)
        at = reader.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _end_of_last_member(reader: BinaryIO) -> int:
    """Return where the last gzip member that is whole ends; all of them have to be read for that."""
    whole = position = 0
    inflate = zlib.decompressobj(_GZIP_FORMAT)
    while chunk := reader.read(_CHUNK_BYTES):
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


def _sync_folder(path: Path) -> None:
    # So that the name of a new file is on disk too, and not only what is in it.
    with suppress(OSError):  # a folder that cannot be read, or is none of a disk
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _for_its_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _bytes(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)
