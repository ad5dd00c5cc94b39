"""Purge: remove deliveries past their retention, irreversibly, in short transactions, after syncing an archive."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from resonant.dead_letters import operations
from resonant.dead_letters.archive import opened_archive
from resonant.errors import ArchiveError
from resonant.events import rfc3339
from resonant.files import make_private_folder
from resonant.store.audit import audited
from resonant.store.schema import deliveries
from resonant.store.views.dead_letters import DeadLetters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection

    from resonant.dead_letters.archive import Archive
    from resonant.events import Reason
    from resonant.settings import Settings
    from resonant.store import WorkerStore
    from resonant.store.views.dead_letters import Key
    from resonant.store.views.selection import Selection

DAY_SECONDS = 86_400.0
NO_ARCHIVE = "none"
# The target duration of a transaction, in seconds, and the bounds of its size. They limit how long others wait for the write
# lock; larger batches would need more memory and save no time.
_TRANSACTION_SECONDS = 0.06
_FEWEST, _FIRST, _MOST = 50, 100, 5_000
_MOST_BYTES = 4 * 1024 * 1024
# The pause between two transactions lets waiting writers get the lock: SQLite has no queue, and a writer checks every 2 ms.
_PAUSE_SECONDS = 0.004


@dataclass(frozen=True, slots=True)
class Retention:
    """How long final deliveries are kept, in days since they ended; 0 keeps none.

    Attributes:
        dead_letters: for dead letters without a rule below.
        delivered: for deliveries with status ``delivered``; None keeps them forever.
        by_reason: for dead letters, keyed by reason.
        by_endpoint: for dead letters, keyed by endpoint; takes precedence over the reason.
    """

    dead_letters: float = 30.0
    delivered: float | None = None
    by_reason: Mapping[Reason, float] = field(default_factory=dict)
    by_endpoint: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_settings(cls, settings: Settings) -> Retention:
        """Return the retention of the daily purge."""
        return cls(
            dead_letters=settings.retention_days,
            delivered=settings.retention_delivered_days,
            by_reason=settings.retention_by_reason,
            by_endpoint=settings.retention_by_endpoint,
        )

    def rules(self, _connection: Connection, *, now: float) -> list[list[ColumnElement[bool]]]:
        """Return the conditions of each rule for purgeable deliveries; no delivery meets two rules."""

        def ended(status: operations.Final, days: float) -> list[ColumnElement[bool]]:
            return operations.purgeable(status, finished_before=now - days * DAY_SECONDS)

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

    def asked(self) -> dict[str, object]:
        """Return the retention for the audit."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The dead letters that an operator chose to remove. The configured retention does not apply to them.

    Attributes:
        selection: selects the dead letters.
        older_than: their minimum age in days since they were given up; 0 selects all.
    """

    selection: Selection
    older_than: float = 0.0

    def rules(self, connection: Connection, *, now: float) -> list[list[ColumnElement[bool]]]:
        """Return the conditions of the selected dead letters, as the only rule."""
        dead = operations.purgeable("dead_letter", finished_before=now - self.older_than * DAY_SECONDS)
        return [[*dead, *DeadLetters.of(connection, self.selection).conditions()]]

    def asked(self) -> dict[str, object]:
        """Return the selection for the audit."""
        return self.selection.as_dict() | {"dead_letters": self.older_than}


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """The result of a purge, or of its dry run.

    Attributes:
        purged: deliveries removed; with ``dry_run``, those that would be removed.
        kept: final deliveries that stay.
        dry_run: whether nothing was removed.
    """

    purged: int
    kept: int
    dry_run: bool = False

    def __str__(self) -> str:
        return f"{self.purged:,} {'would be purged' if self.dry_run else 'purged'}, {self.kept:,} kept"


@dataclass(frozen=True, slots=True)
class Forecast:
    """The number of deliveries that a purge would remove now, by status."""

    dead_letters: int
    delivered: int

    def __str__(self) -> str:
        dead = f"{self.dead_letters:,} dead letter{'' if self.dead_letters == 1 else 's'}"
        return f"{dead} and {self.delivered:,} delivered" if self.delivered else dead


def forecast(connection: Connection, what: Retention | Chosen, *, now: float) -> Forecast:
    """Count the deliveries that a purge would remove at ``now``, in seconds since the epoch."""
    counts = [operations.count(connection, rule) for rule in what.rules(connection, now=now)]
    # The rule for delivered history is the last one.
    delivered = counts.pop() if isinstance(what, Retention) and what.delivered is not None else 0
    return Forecast(sum(counts), delivered)


def daily_archive(settings: Settings, now: float) -> Path:
    """Return the archive of the daily purge for this day (UTC)."""
    return settings.archive_folder / f"purged-{rfc3339(now)[:10]}.jsonl.gz"


def prepared_archive(asked: str | None, settings: Settings, now: float) -> Path | None:
    """Return the archive of a purge: the given file, None for ``none``, otherwise the archive of the day.

    Raises:
        ArchiveError: the folder of the day's archive cannot be created.
    """
    if asked == NO_ARCHIVE:
        return None
    return Path(asked) if asked else prepared_daily_archive(settings, now)


def prepared_daily_archive(settings: Settings, now: float) -> Path:
    """Return the archive of the day, in a folder that exists.

    Raises:
        ArchiveError: the folder cannot be created.
    """
    path = daily_archive(settings, now)
    try:
        make_private_folder(path.parent)
    except OSError as error:
        raise ArchiveError(f"{path.parent}: {error.strerror}; nothing was purged") from None
    return path


async def purge(
    store: WorkerStore,
    what: Retention | Chosen,
    *,
    who: str,
    archive: Path | None = None,
    dry_run: bool = False,
    now: float | None = None,
    on_progress: Callable[[int], None] = lambda _purged: None,
) -> PurgeReport:
    """Remove final deliveries: those past their retention, or chosen ones. A delivery that is being replayed is not final.

    Args:
        store: open.
        what: how long deliveries are kept, or the dead letters to remove.
        who: the operator, for the audit.
        archive: a file to append removed deliveries to, one JSON document per line; gzip if its name ends in ``.gz``. A
            row is removed once its archive entry is on disk; after a crash between the two steps, it is in both.
        dry_run: only count.
        now: the time from which ages are counted, in seconds since the epoch; by default, the store's.
        on_progress: called with the number purged so far.

    Raises:
        ArchiveError: the archive cannot be written.
        StoreUnavailable: the store became unavailable; earlier removals persist and are in the audit.
    """
    now = store.clock() if now is None else now
    rules = await store.read(what.rules, now=now)
    final = await store.read(operations.count_final)
    if dry_run:
        total = sum([await store.read(operations.count, rule) for rule in rules])
        return PurgeReport(total, final - total, dry_run=True)
    purged = 0
    batch = _Batch()
    asked = what.asked() | ({"archive": str(archive)} if archive else {})
    async with audited(store, who=who, action="purge", selection=asked) as audit_id:
        with ExitStack() as opened:
            file: Archive | None = None
            for rule in rules:
                last = None
                # Searched before taking the write lock, since a rule may skip many rows.
                while picked := await store.read(
                    operations.look_for_final, rule, limit=batch.size, most_bytes=_MOST_BYTES, after=last
                ):
                    last = picked[-1]
                    if archive is not None and file is None:
                        file = opened.enter_context(opened_archive(archive))
                    count, began = await store.write(
                        _purge_batch, picked, rule, file, now=now, audit_id=audit_id
                    )
                    batch.took(time.perf_counter() - began)
                    purged += count
                    on_progress(purged)
                    await asyncio.sleep(_PAUSE_SECONDS)
    await store.reclaim_space()
    return PurgeReport(purged, final - purged)


class _Batch:
    """The number of deliveries for the next transaction, adapted to the duration of the last one."""

    def __init__(self) -> None:
        self.size = _FIRST

    def took(self, seconds: float) -> None:
        """Adapt the size to the target duration; grow slowly, shrink at once."""
        aimed = int(self.size * _TRANSACTION_SECONDS / max(seconds, 1e-6))
        self.size = max(_FEWEST, min(aimed, 2 * self.size, _MOST))


def _purge_batch(
    connection: Connection,
    picked: Sequence[Key],
    rule: Sequence[ColumnElement[bool]],
    archive: Archive | None,
    *,
    now: float,
    audit_id: int,
) -> tuple[int, float]:
    """Return the number purged, and when the write lock was acquired: the measured duration excludes that wait."""
    began = time.perf_counter()
    ids = operations.lock_final(connection, picked, rule)
    if ids and archive is not None:
        archive.append(operations.read_history(connection, ids))
    return operations.purge(connection, ids, now=now, audit_id=audit_id), began
