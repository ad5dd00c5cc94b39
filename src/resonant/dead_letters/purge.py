"""Purge: remove deliveries past their retention, irreversibly, in short transactions, after syncing an archive."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from sqlalchemy import ColumnElement, Connection, delete, func, select

from resonant.dead_letters.archive import Archive, new_archive, read_documents
from resonant.dead_letters.bodies import count_bodies, remove_bodies
from resonant.dead_letters.walking import PAUSE_SECONDS, SEARCHED, Batches
from resonant.display import counted
from resonant.errors import ArchiveError, StoreError
from resonant.events import Reason, rfc3339
from resonant.files import make_private_folder
from resonant.settings import Settings
from resonant.store import Store, WorkerStore, schema
from resonant.store.audit import add_to_audit, audited
from resonant.store.counts.acceptances import add_to_ledger
from resonant.store.counts.counters import Tally
from resonant.store.engine.sql import SharedClock, is_any_of
from resonant.store.queue.causes import end_acknowledgements, find_unused, forget_unused_errors
from resonant.store.views.dead_letters import DeadLetters, Position, find_earliest
from resonant.store.views.selection import Selection

Final = Literal["dead_letter", "delivered"]
DAY_SECONDS = 86_400.0
_CAUSES = 200
_MOST_BYTES = 4 * 1024 * 1024
_d = schema.deliveries
_FINAL = ([schema.is_dead_letter], [schema.is_delivered])


def purgeable(status: Final, *, finished_before: float) -> list[ColumnElement[bool]]:
    """Return the conditions for purgeable deliveries: those with this final status that ended by this time."""
    is_status = schema.is_dead_letter if status == "dead_letter" else schema.is_delivered
    return [is_status, _d.c.finished_at <= finished_before]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long final deliveries are kept, in days since they ended; 0 keeps none.

    Attributes:
        dead_letters: for dead letters without a rule below.
        delivered: for deliveries with status ``delivered``; None keeps them forever.
        by_reason: for dead letters, keyed by reason.
        by_endpoint: for dead letters, keyed by endpoint; takes precedence over the reason.
        bodies: for the bodies of events whose deliveries were all delivered; None keeps them with the event.
    """

    dead_letters: float = 30.0
    delivered: float | None = None
    by_reason: Mapping[Reason, float] = field(default_factory=dict)
    by_endpoint: Mapping[str, float] = field(default_factory=dict)
    bodies: float | None = None

    @classmethod
    def of_settings(cls, settings: Settings) -> Self:
        """Return the retention of the daily purge."""
        return cls(
            dead_letters=settings.retention_days,
            delivered=settings.retention_delivered_days,
            by_reason=settings.retention_by_reason,
            by_endpoint=settings.retention_by_endpoint,
            bodies=settings.body_retention_days,
        )

    def rules(self, _connection: Connection, *, now: float) -> list[list[ColumnElement[bool]]]:
        """Return the conditions of each rule, first those of ``purgeable``; no delivery meets two rules."""

        def ended(status: Final, days: float) -> list[ColumnElement[bool]]:
            return purgeable(status, finished_before=now - days * DAY_SECONDS)

        other_endpoint = _d.c.endpoint.not_in(list(self.by_endpoint))
        other_reason = _d.c.reason.not_in(list(self.by_reason))
        rules = [
            [*ended("dead_letter", days), _d.c.endpoint == endpoint]
            for endpoint, days in self.by_endpoint.items()
        ]
        rules += [
            [*ended("dead_letter", days), _d.c.reason == reason, other_endpoint]
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
        dead = purgeable("dead_letter", finished_before=now - self.older_than * DAY_SECONDS)
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
        archive: the file that has the removed deliveries, if any.
        bodies: bodies of kept events that were removed, or would be removed.
    """

    purged: int
    kept: int
    dry_run: bool = False
    archive: Path | None = None
    bodies: int = 0

    def __str__(self) -> str:
        done = "would be " * self.dry_run
        of_bodies = f"; {counted(self.bodies, 'body', 'bodies')} {done}removed" if self.bodies else ""
        return f"{self.purged:,} {done}purged, {self.kept:,} kept{of_bodies}"


@dataclass(frozen=True, slots=True)
class Forecast:
    """The number of deliveries that a purge would remove now, by status."""

    dead_letters: int
    delivered: int

    def __str__(self) -> str:
        dead = counted(self.dead_letters, "dead letter")
        return f"{dead} and {self.delivered:,} delivered" if self.delivered else dead


def forecast(connection: Connection, what: Retention | Chosen, *, now: float) -> Forecast:
    """Count the deliveries that a purge would remove at ``now``, in seconds since the epoch."""
    counts = [_count(connection, [rule]) for rule in what.rules(connection, now=now)]
    # The rule for delivered history is the last one.
    delivered = counts.pop() if isinstance(what, Retention) and what.delivered is not None else 0
    return Forecast(sum(counts), delivered)


def archive_path(asked: str | None, settings: Settings, now: float) -> Path:
    """Return the file to create for a purge: the given one, or that of the day (UTC), in a folder that exists.

    Raises:
        ArchiveError: the folder cannot be created.
    """
    if asked:
        return Path(asked)
    try:
        make_private_folder(settings.archive_folder)
    except OSError as error:
        raise ArchiveError(f"{settings.archive_folder}: {error.strerror}; nothing was purged") from None
    return settings.archive_folder / f"purged-{rfc3339(now)[:10]}.jsonl.gz"


async def time_of_purge(store: Store) -> float:
    """Return the store's time, in seconds since the epoch, from which a purge counts ages.

    Raises:
        StoreError: the clock of this process differs from the store's by more than a day.
    """
    here = store.clock() - store.clock_ahead
    now = await store.read(lambda connection: connection.execute(select(SharedClock())).scalar_one())
    if abs(here - now) > DAY_SECONDS:
        days = f"{abs(here - now) / DAY_SECONDS:.1f} days {'ahead of' if here > now else 'behind'}"
        raise StoreError(
            f"{store}: nothing was purged, since the clock of this machine is {days} that of the store: "
            "correct the wrong one, and run the purge again"
        )
    return now


async def purge(
    store: WorkerStore,
    what: Retention | Chosen,
    *,
    who: str,
    now: float,
    archive: Path | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int], None] = lambda _purged: None,
    on_begin: Callable[[int], None] = lambda _audit_id: None,
) -> PurgeReport:
    """Remove final deliveries: those past their retention, or chosen ones. A delivery that is being replayed is not final.

    Args:
        what: how long deliveries are kept, or the dead letters to remove.
        now: the time from which ages are counted, in seconds since the epoch: see ``time_of_purge``.
        archive: a file to create for the removed deliveries, one JSON document per line; gzip if its name ends in
            ``.gz``; if it exists, the next free number is added to the name. A row is removed once its archive entry is on
            disk; after a crash between the two steps, it is in both.
        dry_run: only count.
        on_progress: called with the number purged so far.
        on_begin: called with the id of the row of the audit, before the first change.

    Raises:
        ArchiveError: the archive cannot be written.
        StoreUnavailable: the store became unavailable; earlier removals persist and are in the audit.
    """
    delivered_before = _delivered_before(what, now)
    if dry_run:
        report: PurgeReport = await store.read(count_purge, what, now=now)
        if delivered_before is None:
            return report
        return replace(report, bodies=await count_bodies(store, delivered_before=delivered_before))
    rules = await store.read(what.rules, now=now)
    final = await store.read(_count, _FINAL)
    purged = bodies = 0
    batches = Batches(store)
    with nullcontext() if archive is None else new_archive(archive) as file:
        asked = what.asked() | ({"archive": str(file.path)} if file else {})
        async with audited(store, who=who, action="purge", selection=asked) as audit_id:
            on_begin(audit_id)
            for rule in rules:
                # Searched before taking the write lock, since a rule may skip many rows.
                last, there_is_more = None, True
                while there_is_more:
                    found, last = await store.read(find_oldest, rule, limit=batches.size, after=last)
                    there_is_more = last is not None
                    batch = batches.write(purge_batch, found, rule, archive=file, now=now, audit_id=audit_id)
                    async for count in batch:
                        purged += count
                        on_progress(purged)
            await _forget_errors(store)
            if delivered_before is not None:
                bodies = await remove_bodies(store, delivered_before=delivered_before)
    await store.reclaim_space()
    used = file.path if file and purged else None
    return PurgeReport(purged, final - purged, archive=used, bodies=bodies)


def count_purge(connection: Connection, what: Retention | Chosen, *, now: float) -> PurgeReport:
    """Return the report of a dry run at ``now``, in seconds since the epoch, without bodies."""
    total = _count(connection, what.rules(connection, now=now))
    return PurgeReport(total, _count(connection, _FINAL) - total, dry_run=True)


def _delivered_before(what: Retention | Chosen, now: float) -> float | None:
    """Return when an event's deliveries must have ended for its body to be removed; None if bodies are kept."""
    days = what.bodies if isinstance(what, Retention) else None
    return None if days is None else now - days * DAY_SECONDS


async def _forget_errors(store: WorkerStore) -> None:
    """Remove the errors of causes that have no dead letters, and the acknowledgements of these causes."""
    last = 0
    while causes := await store.read(find_unused, after=last, limit=_CAUSES):
        last = causes[-1]
        await store.write(forget_unused_errors, causes)
        await asyncio.sleep(PAUSE_SECONDS)
    await store.write(end_acknowledgements)


def find_oldest(
    connection: Connection, rule: Sequence[ColumnElement[bool]], *, limit: int, after: Position | None = None
) -> tuple[list[Position], Position | None]:
    """Find final deliveries, earliest ended first, without locks.

    Args:
        rule: selects the deliveries; the first two conditions are those of ``purgeable``.
        limit: the maximum number; fewer are returned if their events are large, or after a search of many rows.
        after: continue after this one.

    Returns:
        The deliveries, and where to continue; None at the end.
    """
    is_status, is_before, *others = rule
    positions, last = find_earliest(
        connection, is_status, is_before, others, searched=SEARCHED, limit=limit, after=after
    )
    query = select(_d.c.id, func.length(schema.events.c.body))
    query = query.join_from(_d, schema.events, schema.events.c.key == _d.c.event_key)
    of_found = is_any_of(_d.c.id, [each.id for each in positions])
    sizes = {id_: size for id_, size in connection.execute(query.where(of_found))}  # noqa: C416
    total = 0
    for number, each in enumerate(positions):
        total += sizes.get(each.id, 0)
        if number and total > _MOST_BYTES:
            return positions[:number], positions[number - 1]
    return positions, last


def purge_batch(
    connection: Connection,
    picked: Sequence[Position],
    rule: Sequence[ColumnElement[bool]],
    *,
    archive: Archive | None = None,
    now: float,
    audit_id: int | None = None,
) -> int:
    """Archive and remove those of these deliveries that the rule still selects; return their number."""
    ids = _lock(connection, picked, rule)
    if ids:
        if archive is not None:
            archive.append(read_documents(connection, ids))
        _remove(connection, ids, now=now)
        add_to_audit(connection, audit_id, len(ids))
    return len(ids)


def _lock(
    connection: Connection, picked: Sequence[Position], rule: Sequence[ColumnElement[bool]]
) -> list[int]:
    """Lock the deliveries that the rule still selects, and their events; return their ids.

    A delivery is skipped if another transaction has locked it or its event, so a purge waits for neither.
    """
    query = select(_d.c.id).where(is_any_of(_d.c.id, [key.id for key in picked]), *rule)
    if connection.dialect.name == "postgresql":
        query = query.join(schema.events, schema.events.c.key == _d.c.event_key)
        query = query.with_for_update(skip_locked=True, of=[_d, schema.events])
    return list(connection.execute(query).scalars())


def _remove(connection: Connection, delivery_ids: Sequence[int], *, now: float) -> None:
    """Remove locked deliveries permanently, with their history and the events that no other delivery needs."""
    events, attempts = schema.events, schema.attempts
    connection.execute(delete(attempts).where(is_any_of(attempts.c.delivery_id, delivery_ids)))
    columns = (_d.c.event_key, _d.c.endpoint, _d.c.event_type, _d.c.status)
    rows = connection.execute(delete(_d).where(is_any_of(_d.c.id, delivery_ids)).returning(*columns)).all()
    is_needed = select(_d.c.id).where(_d.c.event_key == events.c.key).exists()
    connection.execute(
        delete(events).where(is_any_of(events.c.key, [row.event_key for row in rows]), ~is_needed)
    )
    tally = Tally(now)
    for (endpoint, event_type, status), count in Counter(row[1:] for row in rows).items():
        tally.add("purge", endpoint, event_type, status, count=count)
    tally.write(connection)
    add_to_ledger(connection, "purged", Counter(row.endpoint for row in rows))


def _count(connection: Connection, rules: Sequence[Sequence[ColumnElement[bool]]]) -> int:
    """Count the deliveries that meet one of these rules; none meets two."""
    queries = [select(func.count()).select_from(_d).where(*rule) for rule in rules]
    return sum(connection.execute(query).scalar_one() for query in queries)
