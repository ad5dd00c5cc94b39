"""The statistics of a sliding window: what an export has read is kept on disk, and the next one reads only new attempts.

Attempts never change, and an ended event changes only when it is replayed or purged. So each export keeps what it has read
in the metrics folder, by the hour: counts, which can be added, and sorted runs of times, which give exact percentiles
without a merge. The next export reads the attempts with higher ids. Other changes of the store:

- An event ends by its last attempt, which is new. Only a cancellation has no attempt, so each export reads all cancellations.
- A dead letter is replayed: its former end is dropped once an export sees that it is unfinished or has ended again.
- After a purge, a restored backup, or a clock set back further than the kept data, an export reads everything again.
- PostgreSQL assigns ids before a commit, so lower ids can appear later. Each export checks the ids of the last five minutes
  again, and reads the new ones. An attempt whose transaction takes longer is missed until an export reads everything again,
  which happens once a day.

The kept data is only a shortcut: if it is missing, broken or from another store, an export reads everything from the store.
``statistics.statistics`` defines the results.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from resonant.errors import ResonantError
from resonant.metrics import snapshot
from resonant.metrics.snapshot import Run
from resonant.metrics.totals import read_delivered, read_totals
from resonant.metrics.window.batches import Batch, read_batches
from resonant.metrics.window.counting import statistics_of
from resonant.metrics.window.keeping import Kept, load, save
from resonant.metrics.window.segments import HOUR_SECONDS
from resonant.metrics.window.watching import MOST_WATCHED, appeared

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from resonant.metrics.statistics import Statistics
    from resonant.metrics.totals import Totals
    from resonant.store import Store

__all__ = ["measure_sliding"]

# Also find cancellations recorded by a clock that was set back by up to this many seconds.
_CLOCKS_DIFFER = 86_400
# Attempts missed because of a wrong clock or a very long commit are missed for no longer than this.
_READ_ANEW_SECONDS = 86_400


async def measure_sliding(store: Store, *, hours: float, folder: Path | None) -> tuple[Totals, Statistics]:
    """Read counters and gauges, and compute the statistics of the last hours, from one snapshot.

    Args:
        store: open.
        hours: how far to look back.
        folder: keeps the data between exports, readable by its owner alone; None keeps nothing.
    """
    now = store.clock()
    known = None if folder is None else load(folder, str(store))
    measured = partial(_measure, store=str(store), now=now, since=now - hours * HOUR_SECONDS)
    try:
        totals, found, kept = await store.read(measured, known, folder)
    except (ValueError, LookupError, TypeError, AttributeError):
        # Probably the kept data is broken. Without it, a bug raises its error again.
        totals, found, kept = await store.read(measured, None, folder)
    if folder is not None:
        with contextlib.suppress(OSError, ResonantError):  # the next export reads everything again
            save(folder, kept)
    return totals, found


def _measure(
    connection: Connection, kept: Kept | None, folder: Path | None, *, store: str, now: float, since: float
) -> tuple[Totals, Statistics, Kept]:
    purged = snapshot.read_purged(connection)
    is_known = (
        kept is not None
        and kept.purged == purged
        and kept.since <= since
        and now - _READ_ANEW_SECONDS < kept.read_at <= now
        and snapshot.has_mark(connection, kept.mark)
    )
    if kept is None or not is_known:
        kept = Kept(store, since, purged, now)
    newest = snapshot.read_newest(connection)
    # For a store that is not known yet, read only the window.
    not_before = None if is_known else since
    for ids in _new_ids(connection, kept, newest, now=now):
        for new in read_batches(connection, kept.names, ids, since=not_before):
            kept.drop_ends(new.replayed)
            kept.add(new.segments())
            kept.delivered += new.delivered
            if folder is not None:
                with contextlib.suppress(OSError):
                    kept.put_away(folder)
    if not is_known:
        kept.delivered = Counter(read_delivered(connection))
    kept.mark = newest

    cancelled = Batch(kept.names)
    cancelled.add_ends(snapshot.read_cancelled(connection, since=since - _CLOCKS_DIFFER))
    kept.drop_ends([*snapshot.read_replayed(connection), *cancelled.replayed])
    kept.segments = [each for each in kept.segments if each.hour + HOUR_SECONDS > since]
    # Keep whole hours, so that an export whose clock is a little behind need not read everything again.
    kept.since = max(kept.since, since // HOUR_SECONDS * HOUR_SECONDS)
    segments = [*kept.segments, *cancelled.segments()]
    cut = [each.since(since) if each.hour < since else each for each in segments]

    totals = read_totals(connection, now=now, delivered=kept.delivered)
    unfinished = snapshot.read_unfinished(connection)
    return totals, statistics_of(kept.names, cut, unfinished, since=since, until=now), kept


def _new_ids(connection: Connection, kept: Kept, newest: snapshot.Mark | None, *, now: float) -> list[Run]:
    """Return the ranges of ids with attempts that were not read yet, and mark them as read."""
    if newest is None:
        return []
    new = Run(1 if kept.mark is None else kept.mark.id + 1, newest.id)
    if not snapshot.gives_ids_before_commit(connection):
        return [new]
    after = kept.watch.settled = max(kept.watch.settled, newest.id - MOST_WATCHED)
    found = snapshot.read_runs(connection, after=after, until=newest.id)
    late = [] if kept.mark is None else appeared(kept.watch.runs, found, until=kept.mark.id)
    kept.watch.saw(found, newest.id, now=now)
    return [*late, new]
