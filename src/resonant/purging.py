"""Purge: irreversible removal by retention, in short transactions, with an archive written and synced before."""

from __future__ import annotations

import base64
import gzip
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from resonant.errors import ResonantError
from resonant.store import dead_letters
from resonant.store.schema import deliveries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import ColumnElement, Connection

    from resonant.store import Store

DAY_SECONDS = 86_400.0
# Rows a transaction: short enough that an emission, which waits for the write lock meanwhile, does not notice.
_BATCH = 500


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
    try:
        with _opened(archive) as file:
            for rule in rules:
                while count := await store.write(_purge_batch, rule, file, now=now):
                    purged += count
                    on_progress(purged)
    finally:
        entry = dead_letters.AuditEntry(now, who, "purge", asdict(retention), purged)
        await store.write(dead_letters.write_audit, entry)
    await store.reclaim_space()
    return PurgeReport(purged, final - purged)


def _purge_batch(
    connection: Connection, rule: Sequence[ColumnElement[bool]], archive: BinaryIO | None, *, now: float
) -> int:
    ids = dead_letters.pick_final(connection, rule, limit=_BATCH)
    if ids and archive is not None:
        _append(archive, dead_letters.read_history(connection, ids))
    return dead_letters.purge(connection, ids, now=now)


def _append(archive: BinaryIO, documents: Iterator[dict[str, object]]) -> None:
    lines = "".join(json.dumps(document, ensure_ascii=False, default=_bytes) + "\n" for document in documents)
    data = lines.encode(errors="backslashreplace")
    try:
        # Each batch is a gzip member of its own: a file cut short by a crash loses nothing before the cut.
        archive.write(gzip.compress(data) if str(archive.name).endswith(".gz") else data)
        archive.flush()
        os.fsync(archive.fileno())
    except OSError as error:
        raise ArchiveError(
            f"{archive.name}: {error.strerror}; what was not archived was not purged"
        ) from None


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO | None]:
    if path is None:
        yield None
        return
    try:
        file = open(path.expanduser(), "ab", opener=_for_its_owner_alone)  # noqa: SIM115 - closed below, after errors of opening alone were caught
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}; nothing was purged") from None
    try:
        yield file
    finally:
        # What counts is synced; what is still buffered is what could not be written, and was said.
        with suppress(OSError):
            file.close()


def _for_its_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _bytes(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)
