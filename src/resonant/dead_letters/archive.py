"""The archive of a purge: a new file of JSON lines, synced before a row is removed.

Each batch is a gzip member of its own: if the process is killed while it writes, everything before is readable, and the rows of
the incomplete batch were not removed.
"""

import base64
import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, select

from resonant.errors import ArchiveError
from resonant.events import Event
from resonant.events.attributes import extensions_json
from resonant.files import open_private, sync_folder
from resonant.store import schema
from resonant.store.engine.sql import is_any_of


class Archive:
    """The file of one purge. ``append`` syncs the documents to disk before it returns, or adds none of them."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.path = path
        self._file = file
        self._size = 0

    def append(self, documents: Iterable[dict[str, object]]) -> None:
        """Append these documents, one per line.

        Raises:
            ArchiveError: they cannot be written.
        """
        lines = (json.dumps(each, ensure_ascii=False, default=_base64) + "\n" for each in documents)
        data = "".join(lines).encode(errors="backslashreplace")
        if self.path.suffix == ".gz":
            data = gzip.compress(data, compresslevel=6, mtime=0)
        left = memoryview(data)
        try:
            # On a nearly full disk, a write is partial, and only the next write raises an error.
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), self._size)
            raise ArchiveError(
                f"{self.path}: {error.strerror}; rows that were not archived were not purged"
            ) from None
        self._size += len(data)


@contextmanager
def new_archive(path: Path) -> Iterator[Archive]:
    """Create the archive of one purge, readable only by its owner; it is removed at the end if nothing was archived.

    An existing file is never touched: a number is added to the name, as in ``purged-2.jsonl.gz``.

    Raises:
        ArchiveError: the file cannot be created.
    """
    path = path.expanduser()
    try:
        file, path = _create(path)
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}; nothing was purged") from None
    with file:
        # The name must be on disk too, not only the content.
        with suppress(OSError):  # an unreadable folder, or one that is not on a disk
            sync_folder(path.resolve().parent)
        try:
            yield Archive(file, path)
        finally:
            if not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)


def _create(path: Path) -> tuple[IO[bytes], Path]:
    if path.exists() and not path.is_file():
        raise ArchiveError(f"{path}: is not a regular file; nothing was purged")
    suffix = "".join(path.suffixes[-2:])
    stem = path.name.removesuffix(suffix)
    named = path
    for number in count(2):
        with suppress(FileExistsError):
            return open_private(named, "xb", buffering=0), named
        named = path.with_name(f"{stem}-{number}{suffix}")
    raise AssertionError


class Archived(NamedTuple):
    """A purged delivery: the event, the endpoint, how it ended, and the options that were given to ``enqueue``."""

    event: Event
    endpoint: str
    status: str
    policy: str | None
    max_attempts: int | None


def read_archive(path: str | Path) -> Iterator[Archived]:
    """Yield the deliveries of an archive of any version of Resonant, so that they can be stored again.

    A killed purge may have left an incomplete end, which is left out. Its deliveries were not removed.

    Args:
        path: the file; compressed if its name ends in ``.gz``.

    Raises:
        OSError: the file cannot be read.
    """
    opened = gzip.open if Path(path).suffix == ".gz" else open
    with opened(path, "rb") as file, suppress(EOFError):
        for line in file:
            if line.endswith(b"\n"):
                document = json.loads(line)
                options = (document["delivery"][name] for name in Archived._fields[1:])
                yield Archived(_event(document["event"]), *options)


def _event(fields: dict[str, Any]) -> Event:
    """Return an archived event."""
    return Event.from_stored(
        fields["id"],
        fields["type"],
        fields["source"],
        base64.b64decode(fields["body"]),
        fields["time"],
        fields["subject"],
        fields["form"],
        fields["datacontenttype"],
        fields["dataschema"],
        extensions_json(fields["extensions"]),
        fields["traceparent"],
        fields["tracestate"],
        fields["webhook_id"],
    )


def read_documents(connection: Connection, delivery_ids: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield each delivery with its event and attempts as plain columns; keys of events are replaced by their ids."""
    attempts: defaultdict[int, list[dict[str, object]]] = defaultdict(list)
    for row in _rows(connection, schema.attempts, schema.attempts.c.delivery_id, delivery_ids):
        attempts[row["delivery_id"]].append(row)
    deliveries = _rows(connection, schema.deliveries, schema.deliveries.c.id, delivery_ids)
    keys = [row["event_key"] for row in deliveries]
    events = {row.pop("key"): row for row in _rows(connection, schema.events, schema.events.c.key, keys)}
    for row in events.values():
        row["extensions"] = json.loads(row["extensions"] or "{}")
    for row in deliveries:
        event = events[row.pop("event_key")]
        delivery = {"id": row.pop("id"), "event_id": event["id"], "source": event["source"], **row}
        yield {"event": event, "delivery": delivery, "attempts": attempts[delivery["id"]]}


def _rows(
    connection: Connection, table: Table, key: ColumnElement[Any], values: Sequence[Any]
) -> list[dict[str, Any]]:
    query = select(table).where(is_any_of(key, values)).order_by(*table.primary_key)
    return [dict(row) for row in connection.execute(query).mappings()]


def _base64(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)
