"""The statistics of a window that slides: what is known of it is kept on disk, and only new attempts are read.

Attempts never change, and an event that has ended changes only when it is replayed or purged. So what an export has read
is kept beside the metrics, by hours, as runs of sorted times: counts are added up, and a percentile over sorted runs is
exact without putting them together. The next export reads the attempts with higher ids than the last one kept. What each
change of the store means to what is kept:

- an event ends: by its last attempt, which is new; only a cancellation has none, and cancelled ones are read every time;
- a dead letter is replayed: as soon as it is seen to be unfinished, or to have ended anew, its former end is dropped;
- a purge, a store put back from a backup, a clock put back further than is kept: all is read again;
- PostgreSQL assigns ids before a commit, so lower ids can appear later: each export checks the ids of the last five
  minutes again, and reads new ones among them. An attempt whose transaction takes longer than
  that is missed until all is read again, which is once a day.

What is kept is no more than a shortcut: where it is missing, broken or of another store, all is read from the store.
``statistics.statistics`` says what comes out.
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

# A cancellation by a clock that was put back, of what had ended in the window before, is found all the same.
_CLOCKS_DIFFER = 86_400
# Whatever was missed, by a clock that is wrong or a commit that took very long, is missed no longer than this.
_READ_ANEW_SECONDS = 86_400


async def measure_sliding(store: Store, *, hours: float, folder: Path | None) -> tuple[Totals, Statistics]:
    """Read counters and gauges, and compute the statistics of the last hours, all of one snapshot.

    Args:
        store: open.
        hours: how far to look back.
        folder: where to keep what was read, for its owner alone; None keeps nothing.
    """
    now = store.clock()
    known = None if folder is None else load(folder, str(store))
    measured = partial(_measure, store=str(store), now=now, since=now - hours * HOUR_SECONDS)
    try:
        totals, found, kept = await store.read(measured, known, folder)
    except (ValueError, LookupError, TypeError, AttributeError):
        # What was kept is broken in a way that only shows in its use; without it, the error is another one.
        totals, found, kept = await store.read(measured, None, folder)
    if folder is not None:
        with contextlib.suppress(OSError, ResonantError):  # the next export reads all again
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
    # Of a store that is not known yet, what lies outside the window need not be read.
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
    # Whole hours stay, so that a clock that is a little behind the last one need not read all again.
    kept.since = max(kept.since, since // HOUR_SECONDS * HOUR_SECONDS)
    segments = [*kept.segments, *cancelled.segments()]
    cut = [each.since(since) if each.hour < since else each for each in segments]

    totals = read_totals(connection, now=now, delivered=kept.delivered)
    unfinished = snapshot.read_unfinished(connection)
    return totals, statistics_of(kept.names, cut, unfinished, since=since, until=now), kept


def _new_ids(connection: Connection, kept: Kept, newest: snapshot.Mark | None, *, now: float) -> list[Run]:
    """Return between which ids there are attempts that were not read yet, and count them as read."""
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
