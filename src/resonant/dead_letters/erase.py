"""Erase: remove the content of events irreversibly. Their deliveries stay, with type, endpoint, counts, times and outcomes."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import bindparam, func, or_, select, update

from resonant.dead_letters.cancel import cancel_batch
from resonant.dead_letters.walking import Batches, KeyRange, each_range
from resonant.display import counted
from resonant.errors import UnknownName
from resonant.events import OWN_SOURCE, EventKey, rfc3339
from resonant.routing.globs import any_glob, glob_to_like
from resonant.store import schema
from resonant.store.audit import add_to_audit, audited
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.causes import ERASED, Cause, cause_ids, forget_errors
from resonant.store.queue.locked_rows import change_all
from resonant.store.queue.own_events import ReportOfPurged, keys_of_dead_letters, reports_of_purged
from resonant.store.queue.rescue import ExpiryWatch
from resonant.store.shared.erased import erased_id, erasure_key, find_erased, keyed_digest, make_erasure_key
from resonant.store.shared.processes import has_ended
from resonant.store.views.known_names import why_no_such_ids
from resonant.store.views.selection import Selection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable

    from sqlalchemy import ColumnElement, Connection

    from resonant.settings import Settings
    from resonant.store import Store, WorkerStore

_BATCH = 500
_LOOK_AGAIN_SECONDS = 0.25
_SHOWN_RUNS = 3
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The free texts of operators in the audit, and what separates their words.
_TEXTS = ("text", "note", "reason")
_SEPARATORS = re.compile(r"[\s,;:()]+")
_d, _e, _a = schema.deliveries, schema.events, schema.attempts
_is_left = func.coalesce(_e.c.form, "") != "erased"
_REMOVED = ("subject", "datacontenttype", "dataschema", "extensions", "traceparent", "tracestate")


@dataclass(frozen=True, slots=True)
class Erasure:
    """The events to erase: those that meet all conditions. Give at least ids, a subject, or a source and a type.

    Attributes:
        ids: the ids of events.
        subject: the subject, exactly.
        source: the source, exactly.
        event_type: a glob for the type.
    """

    ids: tuple[str, ...] = ()
    subject: str | None = None
    source: str | None = None
    event_type: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions on events that are not erased."""
        found = [_is_left]
        if self.ids:
            found.append(is_any_of(_e.c.id, self.ids))
        if self.subject is not None:
            found.append(_e.c.subject == self.subject)
        if self.source is not None:
            found.append(_e.c.source == self.source)
        if self.event_type is not None:
            found.append(_e.c.type.like(glob_to_like(self.event_type), escape="\\"))
        return found


class ErasurePlan(NamedTuple):
    """The numbers of events and deliveries that an erasure would change now.

    Attributes:
        events: the events to erase, with Resonant's own events about their purged deliveries.
        deliveries: all their deliveries.
        unfinished: those of them that would be given up, with the reason ``cancelled``.
        being_sent: unfinished deliveries that are being sent, for which an erasure waits.
    """

    events: int
    deliveries: int
    unfinished: int
    being_sent: int


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """The result of an erasure.

    Attributes:
        events: the erased events; of Resonant's own events, only those about purged deliveries count.
        deliveries: their deliveries.
        cancelled: those of them that were unfinished.
        being_sent: events that are not erased, since deliveries of them were being sent until the end.
        runs: ids of flow runs that sent them; Prefect's database may have their content.
        kept: the part of the database that may still have the removed bytes, on one line; empty in a batch's report.
    """

    events: int = 0
    deliveries: int = 0
    cancelled: int = 0
    being_sent: int = 0
    runs: tuple[str, ...] = ()
    kept: str = ""


class OutOfReach(NamedTuple):
    """A place that may still have erased content, and the remedy."""

    what: str
    advice: str


def out_of_reach(report: ErasureReport, settings: Settings) -> list[OutOfReach]:
    """List the places that an erasure does not reach."""
    archives, home = settings.archive_folder, settings.home.expanduser()
    found = [OutOfReach("the database", report.kept)]
    if files := [*archives.glob("*.jsonl*")] if archives.is_dir() else []:
        advice = f"`zgrep -l VALUE {archives}/*` finds them; remove the file or its lines"
        found.append(OutOfReach(f"{counted(len(files), 'archive')} of purges", advice))
    if logs := sorted(path.name for path in home.glob("*.log*")):
        advice = f"`grep -l VALUE {home}/*.log*` finds them; the next `resonant up` begins new ones"
        found.append(OutOfReach(f"logs ({', '.join(logs)})", advice))
    advice = "parameters, names, logs and artifacts of its runs: `prefect flow-run delete ID` removes a run"
    if runs := [each for each in report.runs if _UUID.fullmatch(each)]:
        more = f" and {len(runs) - _SHOWN_RUNS:,} more" if len(runs) > _SHOWN_RUNS else ""
        advice += f"; these sent the events: {', '.join(runs[:_SHOWN_RUNS])}{more}"
    return [
        *found,
        OutOfReach("Prefect's database", advice),
        OutOfReach("subscriptions", "filters that name a subject: `resonant subscription list` shows them"),
        OutOfReach("files of `resonant export`, backups, and the receivers", "remove it there"),
    ]


async def plan_erasure(
    store: Store, what: Erasure, *, on_progress: Callable[[int], None] = lambda _events: None
) -> ErasurePlan:
    """Count what would be erased now.

    Args:
        store: open.
        what: the events.
        on_progress: called with the number of events found so far.

    Raises:
        UnknownName: no event has one of the ids, or had it before an erasure.
    """
    await _check_ids(store, what)
    plan = ErasurePlan(0, 0, 0, 0)
    async for keys in _each_page(store, what):
        found = await store.read(_count_deliveries, keys)
        plan = ErasurePlan(*map(add, plan, (len(keys), *found)))
        on_progress(plan.events)
    return plan


def _count_deliveries(connection: Connection, keys: list[int]) -> Iterable[int]:
    is_sending = func.coalesce(_d.c.sending.cast(_d.c.attempts.type), 0)
    query = select(func.count(), func.count(_d.c.available_at), func.coalesce(func.sum(is_sending), 0))
    return connection.execute(query.where(is_any_of(_d.c.event_key, keys))).one()


async def erase(
    store: WorkerStore,
    what: Erasure,
    *,
    who: str,
    patience: float | None = None,
    has_ended: Callable[[str], bool] = has_ended,
    on_progress: Callable[[int], None] = lambda _erased: None,
) -> ErasureReport:
    """Erase events, in short transactions. Unfinished deliveries are cancelled first. Call it again after a crash.

    Args:
        store: open.
        what: the events. Those stored after the start are left out.
        who: the operator, for the audit, which has an HMAC of the selection.
        patience: how long to wait for deliveries that are being sent, in seconds. By default, three quarters of a lease, since
            expired leases are ended only after half a lease.
        has_ended: returns whether the process with this name has ended for sure.
        on_progress: called with the number of events erased so far.

    Raises:
        UnknownName: no event has one of the ids, or had it before an erasure.
        StoreUnavailable: the store became unavailable; what was erased stays erased.
    """
    await _check_ids(store, what)
    key = await store.write(make_erasure_key)
    report, runs, batches = ErasureReport(), dict[str, None](), Batches(store)
    async with audited(store, who=who, action="erase", selection=_for_audit(what, key)) as audit_id:

        async def erase_page(keys: list[int]) -> int:
            nonlocal report
            busy = 0
            async for done in batches.write(erase_batch, keys, key=key, now=store.clock(), audit_id=audit_id):
                busy += done.being_sent
                runs.update(dict.fromkeys(done.runs))
                report = replace(
                    report,
                    events=report.events + done.events,
                    deliveries=report.deliveries + done.deliveries,
                    cancelled=report.cancelled + done.cancelled,
                )
                on_progress(report.events)
            return busy

        loop = asyncio.get_running_loop()
        watch = ExpiryWatch(store.lease_seconds, loop.time)
        until = loop.time() + (0.75 * store.lease_seconds if patience is None else patience)
        left = [(keys, busy) async for keys in _each_page(store, what) if (busy := await erase_page(keys))]
        while left and loop.time() < until:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            # No worker may be there to take over from killed ones.
            await store.rescue_ended(has_ended)
            await store.rescue(watch)
            left = [(keys, busy) for keys, _ in left if (busy := await erase_page(keys))]
    await store.database.reclaim_space()
    kept = await store.database.forget_removed()
    return replace(report, being_sent=sum(busy for _, busy in left), runs=tuple(runs), kept=kept)


def erase_batch(
    connection: Connection, keys: Collection[int], *, key: bytes, now: float, audit_id: int | None = None
) -> ErasureReport:
    """Erase those of these events that have no delivery that is being sent, and the system's own events about them.

    Args:
        connection: in a write transaction.
        keys: of events.
        key: of the store, as ``make_erasure_key`` returns it.
        now: seconds since the epoch.
        audit_id: the id that ``begin_audit`` returned.
    """
    if connection.dialect.name == "sqlite":
        # Overwrites what is removed, instead of only marking it as free.
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    given = _lock_events(connection, _e.c.key, keys)
    about = keys_of_dead_letters(_lock_deliveries(connection, given))
    own = _lock_events(connection, _e.c.id, about, _e.c.source == OWN_SOURCE) if about else {}
    events = given | own
    deliveries = _lock_deliveries(connection, events)
    busy = {row.event_key for row in deliveries if row.sending}
    # Otherwise nothing would find the system's own events about them later.
    busy |= {about[own[key].id] for key in busy & own.keys()}
    events = {each: row for each, row in events.items() if each not in busy}
    deliveries = [row for row in deliveries if row.event_key in events]
    ids = [row.id for row in deliveries]
    cancelled = cancel_batch(connection, ids, Selection(), now=now)
    owners = select(_a.c.owner).where(is_any_of(_a.c.delivery_id, ids), _a.c.owner.is_not(None)).distinct()
    runs = connection.execute(owners).scalars().all()
    _erase_events(connection, events.values(), key)
    no_text = dict.fromkeys(("error", "excerpt", "warning"))
    connection.execute(update(_a).where(is_any_of(_a.c.delivery_id, ids)).values(no_text))
    _erase_errors(connection, ids)
    _erase_from_audit(connection, events.values(), key)
    erased = len(given.keys() & events)
    add_to_audit(connection, audit_id, len(ids))
    return ErasureReport(erased, len(ids), cancelled, len(busy & given.keys()), tuple(runs))


def was_erased(connection: Connection, what: Erasure) -> bool:
    """Return whether an earlier erasure with the same conditions has erased events."""
    if (key := erasure_key(connection)) is None:
        return False
    asked = json.dumps(_for_audit(what, key), ensure_ascii=False)
    table = schema.audit.c
    query = select(table.id).where(table.action == "erase", table.selection == asked, table["count"] > 0)
    return connection.execute(query.limit(1)).first() is not None


def _for_audit(what: Erasure, key: bytes) -> dict[str, object]:
    given = {name: value for name, value in asdict(what).items() if value}
    return {"by": list(given), "hmac": keyed_digest(key, given)}


async def _check_ids(store: Store, what: Erasure) -> None:
    missing = await store.read(_missing, what.ids)
    if not missing or await store.read(was_erased, what):
        return
    async for found in _each_report(store, replace(what, ids=tuple(missing))):
        missing -= {report.event.id for report in found}
    if missing and (key := await store.read(erasure_key)) is not None:
        # The sources of erased events are those that the store knows.
        sources = {what.source} if what.source else set[str]()
        if not sources:
            async for found_sources in each_range(store, _sources):
                sources |= found_sources
        missing -= await store.read(_erased_ids, key, sources, missing)
    if why := await store.read(why_no_such_ids, missing):
        raise UnknownName(why)


def _missing(connection: Connection, ids: Collection[str]) -> set[str]:
    return set(ids).difference(connection.execute(select(_e.c.id).where(is_any_of(_e.c.id, ids))).scalars())


def _sources(connection: Connection, keys: KeyRange) -> set[str]:
    return set(connection.execute(select(_e.c.source).where(keys.has(_e.c.key)).distinct()).scalars())


def _erased_ids(connection: Connection, key: bytes, sources: set[str], ids: set[str]) -> set[str]:
    erased = {erased_id(key, EventKey(source, each)): each for source in sources for each in ids}
    found = connection.execute(select(_e.c.id).where(is_any_of(_e.c.id, list(erased)))).scalars()
    return {erased[each] for each in found}


async def _each_page(store: Store, what: Erasure) -> AsyncIterator[list[int]]:
    """Yield the keys of the events to erase, then those of Resonant's own events about their purged deliveries."""
    if what.ids:
        for start in range(0, len(what.ids), _BATCH):
            some = replace(what, ids=what.ids[start : start + _BATCH])
            yield await store.read(partial(_find, some))
    else:
        async for found in each_range(store, partial(_find, what)):
            if found:
                yield found
    # Last, so that those of a purge that runs meanwhile are found too.
    async for reports in _each_report(store, what):
        yield [report.key for report in reports]


def _find(what: Erasure, connection: Connection, keys: KeyRange | None = None) -> list[int]:
    within = [] if keys is None else [keys.has(_e.c.key)]
    return list(connection.execute(select(_e.c.key).where(*what.conditions(), *within)).scalars())


async def _each_report(store: Store, what: Erasure) -> AsyncIterator[list[ReportOfPurged]]:
    last: str | None = ""
    while last is not None:
        last, found = await store.read(_find_reports, what, after=last)
        if found:
            yield found


def _find_reports(
    connection: Connection, what: Erasure, *, after: str
) -> tuple[str | None, list[ReportOfPurged]]:
    """Find Resonant's own events about purged deliveries of these events."""
    ids, is_type = frozenset(what.ids), any_glob((what.event_type or "*",))

    def is_wanted(event: EventKey, event_type: str) -> bool:
        return (not ids or event.id in ids) and what.source in (None, event.source) and is_type(event_type)

    last, found = reports_of_purged(connection, is_wanted, after=after, limit=_BATCH)
    if what.subject is not None and found:
        # Reports have no subject, so only those about stored events are found. Of an erased event, all have to go.
        about = {report.event for report in found}
        is_theirs = is_any_of(_e.c.id, {event.id for event in about})
        rows = connection.execute(select(_e.c.source, _e.c.id).where(*what.conditions(), is_theirs))
        events = {EventKey(*row) for row in rows}
        if erasure_key(connection) is not None:
            events |= find_erased(connection, about)
        found = [report for report in found if report.event in events]
    return last, found


def _lock_events(
    connection: Connection, column: ColumnElement[Any], values: Collection[Any], *more: ColumnElement[bool]
) -> dict[int, Any]:
    columns = (_e.c.key, _e.c.id, _e.c.source, _e.c.subject, _e.c.digest, _e.c.accepted_at)
    query = select(*columns).where(is_any_of(column, list(values)), _is_left, *more)
    return {row.key: row for row in connection.execute(query.order_by(_e.c.key).with_for_update())}


def _lock_deliveries(connection: Connection, events: Collection[int]) -> list[Any]:
    columns = (_d.c.id, _d.c.event_key, _d.c.sending, _d.c.round, _d.c.accepted_at)
    query = select(*columns).where(is_any_of(_d.c.event_key, list(events)))
    return list(connection.execute(query.order_by(schema.id_without_index).with_for_update()))


def _erase_events(connection: Connection, events: Collection[Any], key: bytes) -> None:
    ids = {row.key: erased_id(key, EventKey(row.source, row.id)) for row in events}
    # A producer that was waiting for an erasure may have stored an erased event again.
    query = select(_e.c.id).where(is_any_of(_e.c.id, list(ids.values())))
    taken = set(connection.execute(query).scalars())
    rows = [
        {
            "its_key": row.key,
            "its_id": f"{ids[row.key]}-{row.key}" if ids[row.key] in taken else ids[row.key],
            "its_digest": keyed_digest(key, row.digest),
            "its_time": rfc3339(row.accepted_at),
        }
        for row in events
    ]
    if not rows:
        return
    statement = update(_e).where(_e.c.key == bindparam("its_key"))
    values: dict[str, Any] = dict.fromkeys(_REMOVED)
    values |= {"form": "erased", "body": b"", "time": bindparam("its_time")}
    values |= {
        "id": bindparam("its_id"),
        "webhook_id": bindparam("its_id"),
        "digest": bindparam("its_digest"),
    }
    connection.execute(statement.values(values), rows)


def _erase_errors(connection: Connection, delivery_ids: list[int]) -> None:
    """Remove the errors of deliveries, and of causes that have no other dead letters."""
    columns = (_d.c.id, _d.c.status, _d.c.endpoint, _d.c.event_type, _d.c.reason, _d.c.category, _d.c.code)
    rows = connection.execute(select(*columns).where(is_any_of(_d.c.id, delivery_ids))).all()
    by_cause: defaultdict[Cause, list[int]] = defaultdict(list)
    for row in rows:
        if row.status == "dead_letter":
            failure = {"category": row.category, "code": row.code, "error_type": ERASED, "error": ""}
            by_cause[Cause.of(row.endpoint, row.event_type, row.reason, failure)].append(row.id)
    change_all(connection, delivery_ids, {"error": None, "cause_id": None})
    for cause, cause_id in cause_ids(connection, by_cause).items():
        change_all(connection, by_cause[cause], {"error_type": ERASED, "cause_id": cause_id})
    forget_errors(connection, {row.endpoint for row in rows}, {row.event_type for row in rows})


def _erase_from_audit(connection: Connection, events: Iterable[Any], key: bytes) -> None:
    """Replace the ids of events in the audit, and texts that name an event or its subject."""
    table = schema.audit
    is_about = or_(*(table.c.selection.contains(f'"{name}":') for name in ("ids", *_TEXTS)))
    rows = connection.execute(select(table.c.id, table.c.selection).where(is_about)).all()
    if not rows:
        return
    new_ids = {row.id: erased_id(key, EventKey(row.source, row.id)) for row in events}
    names = {*new_ids, *(row.subject for row in events if row.subject)}
    phrases = [each for each in names if _SEPARATORS.search(each)]
    for audit_id, text in rows:
        selection = json.loads(text)
        if "ids" in selection:
            selection["ids"] = [new_ids.get(each, each) for each in selection["ids"]]
        for name in _TEXTS:
            said = selection.get(name) or ""
            words = {form for word in _SEPARATORS.split(said) for form in (word, word.strip(".!?'\""))}
            if not names.isdisjoint(words) or any(each in said for each in phrases):
                selection[name] = "erased"
        changed = json.dumps(selection, ensure_ascii=False)
        if changed != text:
            connection.execute(update(table).where(table.c.id == audit_id).values(selection=changed))
