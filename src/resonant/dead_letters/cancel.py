"""Cancel: give up unfinished deliveries with the reason ``cancelled``."""

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select

from resonant.dead_letters.walking import Batches
from resonant.store import Store, schema
from resonant.store.audit import add_to_audit, audited
from resonant.store.counts.counters import Tally, count_retries
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.attempts import without_polls
from resonant.store.queue.causes import Cause, cause_ids
from resonant.store.queue.locked_rows import change_all, given_up
from resonant.store.views.selection import Selection

# Each search for unfinished deliveries sorts them all, so a cancellation makes few searches.
_MOST_FOUND = 100_000
_d = schema.deliveries


class Cancellable(NamedTuple):
    """The effect of a cancellation now.

    Attributes:
        number: deliveries that would be given up.
        being_sent: selected deliveries that are being sent, and would not be cancelled.
    """

    number: int
    being_sent: int

    def __str__(self) -> str:
        left = f"; {self.being_sent:,} being sent now would not be cancelled" if self.being_sent else ""
        return f"{self.number:,} would be given up{left}"


def cancellable(
    connection: Connection, selection: Selection, *, begun_before: float | None = None
) -> Cancellable:
    """Count the deliveries that ``cancel`` would give up now."""
    conditions = _unfinished(selection, begun_before)
    query = select(_d.c.sending, func.count()).where(*conditions).group_by(_d.c.sending)
    counts = {bool(sending): number for sending, number in connection.execute(query)}
    return Cancellable(counts.get(False, 0), counts.get(True, 0))


def unfinished_by_type(connection: Connection, selection: Selection) -> dict[str, int]:
    """Count the selected unfinished deliveries, including those being sent now, by event type."""
    query = select(_d.c.event_type, func.count()).where(*_unfinished(selection)).group_by(_d.c.event_type)
    return {row[0]: row[1] for row in connection.execute(query.order_by(_d.c.event_type))}


async def cancel(
    store: Store,
    selection: Selection,
    *,
    who: str,
    begun_before: float | None = None,
    on_begin: Callable[[int], None] = lambda _audit_id: None,
) -> int:
    """Cancel the selected unfinished deliveries, except those being sent now; return their number.

    Args:
        selection: selects the deliveries; its times are acceptance times.
        begun_before: leave out rounds that begin at this time or later, seconds since the epoch, as replays do.
        on_begin: called with the id of the row of the audit, before the first change.
    """
    now = store.clock()
    cancelled, batches = 0, Batches(store)
    async with audited(store, who=who, action="cancel", selection=selection.as_dict()) as audit_id:
        on_begin(audit_id)
        last, newest = 0, await store.read(_newest)
        while found := await store.read(_find, selection, begun_before, up_to=newest, after=last):
            async for number in batches.write(
                cancel_batch, found, selection, begun_before=begun_before, now=now, audit_id=audit_id
            ):
                cancelled += number
            last = found[-1]
    return cancelled


def cancel_batch(
    connection: Connection,
    delivery_ids: Collection[int],
    selection: Selection,
    *,
    begun_before: float | None = None,
    now: float,
    audit_id: int | None = None,
) -> int:
    """Cancel those of these deliveries that are still selected, unfinished and not being sent; return their number.

    If a delivery waits for a retry in some process, that process loses its lease. The transaction
    waits for rows that another one has locked; skipped rows would be missed.
    """
    conditions = [
        *_unfinished(selection, begun_before),
        _d.c.sending.is_(False),
        is_any_of(_d.c.id, delivery_ids),
    ]
    query = select(_d).where(*conditions).order_by(schema.id_without_index)
    rows = connection.execute(query.with_for_update(key_share=True)).all()
    by_cause: defaultdict[Cause, list[int]] = defaultdict(list)
    tally = Tally(now)
    tried = without_polls(connection, {row.id: row.attempts for row in rows})
    for row in rows:
        by_cause[Cause.of(row.endpoint, row.event_type, "cancelled", row._asdict())].append(row.id)
        labels = (row.endpoint, row.event_type, "dead_letter", row.category, row.code)
        tally.add("delivery", *labels, detail="cancelled", seconds=now - row.accepted_at)
        count_retries(tally, (row.endpoint, row.event_type), tried[row.id])
    final: dict[str, Any] = {
        **given_up("cancelled", now),
        "backoff_until": None,
        "lease_token": _d.c.lease_token + 1,
    }
    for cause, cause_id in cause_ids(connection, by_cause).items():
        change_all(connection, by_cause[cause], {**final, "cause_id": cause_id})
    tally.write(connection)
    add_to_audit(connection, audit_id, len(rows))
    return len(rows)


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(_d.c.id))).scalar() or 0


def _find(
    connection: Connection, selection: Selection, begun_before: float | None, *, up_to: int, after: int
) -> list[int]:
    """Find selected unfinished deliveries, without locks; return their ids, sorted.

    Args:
        selection: selects the deliveries.
        up_to: skip deliveries newer than this one; otherwise a busy producer could keep the search running.
        after: continue after this delivery.
    """
    key = schema.id_without_index
    query = select(_d.c.id).where(*_unfinished(selection, begun_before), key <= up_to, key > after)
    return list(connection.execute(query.order_by(key).limit(_MOST_FOUND)).scalars())


def _unfinished(selection: Selection, begun_before: float | None = None) -> list[ColumnElement[bool]]:
    found = [_d.c.available_at.is_not(None), *selection.of_unfinished()]
    return found if begun_before is None else [*found, _d.c.round_started_at < begun_before]
