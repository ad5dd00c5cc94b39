"""Purge: irreversible removal by retention, in short transactions, with an archive written and synced before."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from resonant.errors import ResonantError
from resonant.store import dead_letters
from resonant.store.audit import audited
from resonant.store.schema import deliveries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import ColumnElement, Connection

    from resonant.store import Store
    from resonant.store.letters import Key

DAY_SECONDS = 86_400.0
# How long a transaction shall take, and how many deliveries it removes at most: whoever waits for the write lock meanwhile
# waits no longer, and holding more in memory would gain nothing.
_TRANSACTION_SECONDS = 0.06
_FEWEST, _FIRST, _MOST = 50, 500, 5_000
# Between two transactions, so that those who wait come in: SQLite has no queue, and a waiting writer looks every 2 ms.
_PAUSE_SECONDS = 0.004


class ArchiveError(ResonantError):
    """The archive cannot be written; what was not archived was not purged."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long final deliveries are kept, in days since they ended; 0 keeps none.

    Attributes:
        dead_letters: for dead letters, where nothing below says otherwise.
        delivered: for delivered ones; None keeps them.
        by_reason: for dead letters of a reason.
        by_endpoint: for dead letters of an endpoint; goes before the reason.
    """

    dead_letters: float = 30.0
    delivered: float | None = None
    by_reason: Mapping[str, float] = field(default_factory=dict)
    by_endpoint: Mapping[str, float] = field(default_factory=dict)

    def rules(self, now: float) -> list[list[ColumnElement[bool]]]:
        """Return the conditions of what may be purged now, rule by rule; no delivery meets two of them."""

        def ended(status: dead_letters.Final, days: float) -> list[ColumnElement[bool]]:
            return dead_letters.purgeable(status, finished_before=now - days * DAY_SECONDS)

        other_endpoint = deliveries.c.endpoint.not_in(list(self.by_endpoint))
        other_reason = deliveries.c.reason.not_in(list(self.by_reason))
        rules = [
            [*ended("dead_letter", days), deliveries.c.endpoint == endpoint]
            for endpoint, days in self.by_endpoint.items()
        ]
        rules += [
            [*ended("dead_letter", days), deliveries.c.reason == reason, other_endpoint]
            for reason, days in self.by_reason.items()
        ]
        rules.append([*ended("dead_letter", self.dead_letters), other_endpoint, other_reason])
        if self.delivered is not None:
            rules.append(ended("delivered", self.delivered))
        return rules


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What a purge did, or would do.

    Attributes:
        purged: deliveries removed; with ``dry_run``, those that would be.
        kept: final deliveries that stay.
        dry_run: whether nothing was removed.
    """

    purged: int
    kept: int
    dry_run: bool = False

    def __str__(self) -> str:
        return f"{self.purged:,} {'would be purged' if self.dry_run else 'purged'}, {self.kept:,} kept"


async def purge(
    store: Store,
    retention: Retention,
    *,
    who: str,
    archive: Path | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int], None] = lambda _purged: None,
) -> PurgeReport:
    """Remove what is older than its retention; never what is not final, so never what is being replayed.

    Args:
        store: open.
        retention: how long what is kept.
        who: for the audit.
        archive: a file to append what is removed to, one JSON document a line; gzip if its name ends in ``.gz``. A row
            goes after its archive is on disk; a crash between the two leaves it in both, never in none.
        dry_run: only count.
        on_progress: called with how many are purged so far.

    Raises:
        ArchiveError: the archive cannot be written.
        StoreUnavailable: the store went away; what was purged before is purged, and noted.
    """
    now = store.clock()
    rules = retention.rules(now)
    final = await store.read(dead_letters.count, [deliveries.c.finished_at.is_not(None)])
    if dry_run:
        total = sum([await store.read(dead_letters.count, rule) for rule in rules])
        return PurgeReport(total, final - total, dry_run=True)
    purged = 0
    batch = _Batch()
    async with audited(store, who=who, action="purge", selection=asdict(retention)) as audit_id:
        with _opened(archive) as file:
            for rule in rules:
                last = None
                while True:
                    count, last, began = await store.write(
                        _purge_batch, rule, file, now=now, limit=batch.size, after=last, audit_id=audit_id
                    )
                    if not count:
                        break
                    batch.took(time.perf_counter() - began)
                    purged += count
                    on_progress(purged)
                    await asyncio.sleep(_PAUSE_SECONDS)
    await store.reclaim_space()
    return PurgeReport(purged, final - purged)


class _Batch:
    """How many deliveries to remove in the next transaction, learned from the last one."""

    def __init__(self) -> None:
        self.size = _FIRST

    def took(self, seconds: float) -> None:
        """Aim at the time that a transaction shall take; grow slowly, shrink at once."""
        aimed = int(self.size * _TRANSACTION_SECONDS / max(seconds, 1e-6))
        self.size = max(_FEWEST, min(aimed, 2 * self.size, _MOST))


def _purge_batch(
    connection: Connection,
    rule: Sequence[ColumnElement[bool]],
    archive: _Archive | None,
    *,
    now: float,
    limit: int,
    after: Key | None,
    audit_id: int,
) -> tuple[int, Key | None, float]:
    """Return how many were purged, the last of them, and when the lock was got: who waits for it does not hold it."""
    began = time.perf_counter()
    picked = dead_letters.pick_final(connection, rule, limit=limit, after=after, with_events=True)
    if not picked:
        return 0, None, began
    ids = [key.id for key in picked]
    if archive is not None:
        archive.append(dead_letters.read_history(connection, ids))
    return dead_letters.purge(connection, ids, now=now, audit_id=audit_id), picked[-1], began


class _Archive:
    """A file of JSON lines to append to; what is appended is on disk when that returns, or not in the file at all."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_compressed = str(file.name).endswith(".gz")

    def append(self, documents: Iterator[dict[str, object]]) -> None:
        """Add these documents, a line each.

        Raises:
            ArchiveError: they cannot be written.
        """
        lines = "".join(
            json.dumps(document, ensure_ascii=False, default=_bytes) + "\n" for document in documents
        )
        data = lines.encode(errors="backslashreplace")
        # Each batch is a gzip member of its own: a file cut short by a crash loses nothing before the cut.
        data = gzip.compress(data, compresslevel=6, mtime=0) if self._is_compressed else data
        size = os.fstat(self._file.fileno()).st_size
        try:
            self._file.write(data)
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), size)
            raise ArchiveError(
                f"{self._file.name}: {error.strerror}; what was not archived was not purged"
            ) from None


@contextmanager
def _opened(path: Path | None) -> Iterator[_Archive | None]:
    if path is None:
        yield None
        return
    try:
        file = open(path.expanduser(), "ab", buffering=0, opener=_for_its_owner_alone)  # noqa: SIM115 - closed below, after errors of opening alone were caught
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}; nothing was purged") from None
    with file:
        yield _Archive(file)


def _for_its_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _bytes(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)
