"""The statistics of a window that slides: what is known of it is kept on disk, and only new attempts are read.

Attempts never change, and an event that has ended changes only when it is replayed or purged. So what an export has read
is kept beside the metrics, by hours, as runs of sorted times: counts are added up, and a percentile over sorted runs is
exact without putting them together. The next export reads the attempts with higher ids than the last one kept. What each
change of the store means to what is kept:

- an event ends: by its last attempt, which is new; only a cancellation has none, and cancelled ones are read every time;
- a dead letter is replayed: as soon as it is seen to be unfinished, or to have ended anew, its former end is dropped;
- a purge, a store put back from a backup, a clock put back further than is kept: all is read again;
- PostgreSQL gives ids before a commit, so a smaller one may appear later: attempts of the last minutes are not kept, but
  read again by every export until nobody can be writing beside them. One that takes longer to commit is missed until all
  is read again.

What is kept is no more than a shortcut: where it is missing, broken or of another store, all is read from the store.
``stats.statistics`` says what comes out.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resonant.errors import ResonantError
from resonant.files import atomic_file
from resonant.stats import Attempts, Delays, Events, Figures, Hour, Retries, Spread, Statistics
from resonant.store import measuring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from sqlalchemy import Connection

    from resonant.store import Store
    from resonant.store.measuring import Totals, Unfinished

    Floats = NDArray[np.float64]

_FORMAT = 1
_HOUR = 3600
# A cancellation by a clock that was put back, of what had ended in the window before, is found all the same.
_CLOCKS_DIFFER = 86_400
_MANIFEST = "window.json"
_QUANTILES = (0.5, 0.95, 0.99)
# Of so many values, to put them together is quicker than to narrow the runs down.
_FEW = 2_048
_SAMPLES = 32
_BATCH = 50_000
_PILES = ("latency", "latency_endpoint", "latency_type", "took", "took_endpoint", "took_type", "delay")
_ALL = 0


class _Codes:
    """Numbers for the kinds of facts that were seen, in the order in which they were."""

    def __init__(self, kinds: Iterable[Sequence[Any]] = ()) -> None:
        self._code = {tuple(kind): code for code, kind in enumerate(kinds)}

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._code)

    def code(self, *kind: Any) -> int:
        return self._code.setdefault(kind, len(self._code))


class _Names(NamedTuple):
    """What the numbers in segments stand for.

    Attributes:
        attempts: endpoint, event type, result, category, code, error type.
        ended: endpoint, event type, status, reason.
        delays: endpoint, policy or "", number of the attempt in its round, whether a wait was asked for.
    """

    attempts: _Codes
    ended: _Codes
    delays: _Codes
    endpoints: _Codes
    types: _Codes

    @classmethod
    def empty(cls) -> _Names:
        return cls(_Codes(), _Codes(), _Codes(), _Codes(), _Codes())


class _Group(NamedTuple):
    """Where a group's values are in a pile, and their sum."""

    key: int
    start: int
    stop: int
    total: float


@dataclass(frozen=True, slots=True)
class _Pile:
    """Values by group, sorted within each, and the moment that each is of."""

    groups: list[_Group]
    values: Floats
    moments: Floats

    @classmethod
    def of(cls, keys: NDArray[Any], values: Floats, moments: Floats) -> _Pile:
        order = np.lexsort((values, keys))
        return cls._grouped(keys[order], values[order], moments[order])

    @classmethod
    def _grouped(cls, keys: NDArray[Any], values: Floats, moments: Floats) -> _Pile:
        if not len(values):
            return cls([], values, moments)
        starts = np.concatenate(([0], np.flatnonzero(np.diff(keys)) + 1))
        totals = np.add.reduceat(values, starts).tolist()
        bounds = [*starts.tolist(), len(values)]
        groups = [
            _Group(int(keys[start]), start, stop, total)
            for (start, stop), total in zip(pairwise(bounds), totals, strict=True)
        ]
        return cls(groups, values, moments)

    @property
    def keys(self) -> NDArray[Any]:
        sizes = [group.stop - group.start for group in self.groups]
        return np.repeat([group.key for group in self.groups], sizes)

    def since(self, moment: float) -> _Pile:
        kept = self.moments >= moment
        return self._grouped(self.keys[kept], self.values[kept], self.moments[kept])


@dataclass(frozen=True, slots=True)
class _Tally:
    """Events that ended, of one kind: how many, how many of them were tried, and the attempts after the first."""

    number: int
    tried: int
    retries: int
    most: int


@dataclass(slots=True)
class _Segment:
    """Some of the attempts that began in an hour, and of the events that ended in it.

    Attributes:
        attempts: rows ``moment, kind``.
        ended: rows ``moment, kind, attempts, delivery id``.
        attempt_counts, ended_counts: by kind.
        file: where it is kept; None where it is not yet.
    """

    hour: int
    attempts: Floats
    ended: Floats
    piles: dict[str, _Pile]
    attempt_counts: dict[int, int]
    ended_counts: dict[int, _Tally]
    file: str | None = None

    @classmethod
    def of(cls, hour: int, attempts: Floats, ended: Floats, piles: dict[str, _Pile]) -> _Segment:
        return cls(hour, attempts, ended, piles, _counts(attempts[1]), _tallies(ended))

    @property
    def size(self) -> int:
        return len(self.attempts[0]) + len(self.ended[0])

    def since(self, moment: float) -> _Segment:
        """Return the part of it from a moment on."""
        return _Segment.of(
            self.hour,
            self.attempts[:, self.attempts[0] >= moment],
            self.ended[:, self.ended[0] >= moment],
            {name: pile.since(moment) for name, pile in self.piles.items()},
        )

    def without(self, dead: Floats) -> _Segment:
        """Return it without the end of these dead letters, or itself where it has none of them."""
        gone = np.isin(self.ended[3], dead)
        if not gone.any():
            return self
        return _Segment.of(self.hour, self.attempts, self.ended[:, ~gone], self.piles)

    def arrays(self) -> list[Floats]:
        """Return all that its file holds."""
        piles = (self.piles[name] for name in _PILES)
        rows = [*self.attempts, *self.ended]
        return rows + [array for pile in piles for array in (pile.values, pile.moments)]

    def to_document(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "hour": self.hour,
            "attempts": self.attempts.shape[1],
            "ended": self.ended.shape[1],
            "piles": [self.piles[name].groups for name in _PILES],
            "attempt_counts": list(self.attempt_counts.items()),
            "ended_counts": [
                (kind, each.number, each.tried, each.retries, each.most)
                for kind, each in self.ended_counts.items()
            ],
        }

    @classmethod
    def load(cls, folder: Path, document: Mapping[str, Any]) -> _Segment:
        """Open what was kept, without reading it.

        Raises:
            ValueError: the file is not as long as it should be.
        """
        values = np.load(folder / document["file"], mmap_mode="r", allow_pickle=False)
        taken = 0

        def take(size: int, rows: int) -> Floats:
            nonlocal taken
            taken += size * rows
            return np.asarray(values[taken - size * rows : taken]).reshape(rows, size)

        attempts, ended = take(document["attempts"], 2), take(document["ended"], 4)
        piles = {}
        for name, rows in zip(_PILES, document["piles"], strict=True):
            groups = [_Group(*row) for row in rows]
            of_pile = take(groups[-1].stop if groups else 0, 2)
            piles[name] = _Pile(groups, of_pile[0], of_pile[1])
        if taken != len(values):
            raise ValueError(f"{document['file']} has another length")
        attempt_counts = dict(document["attempt_counts"])
        ended_counts = {kind: _Tally(*tally) for kind, *tally in document["ended_counts"]}
        return cls(document["hour"], attempts, ended, piles, attempt_counts, ended_counts, document["file"])


@dataclass(slots=True)
class _Kept:
    """What is known of the store.

    Attributes:
        store: its name.
        since: what began and ended before is not in it; seconds since the epoch.
        purged: the ledger; when it changes, rows that were read are gone.
        mark: the last attempt that is kept; the store has another one, or none, when it is not the one that was read.
        delivered: rows with that status, by endpoint.
    """

    store: str
    since: float
    purged: int
    mark: measuring.Mark | None = None
    delivered: Counter[str] = field(default_factory=Counter)
    names: _Names = field(default_factory=_Names.empty)
    segments: list[_Segment] = field(default_factory=list)

    def put_away(self, folder: Path) -> None:
        """Write the hours that are over, and leave them on disk: a whole day would take much memory.

        Raises:
            OSError: it cannot be written.
        """
        newest = max((each.hour for each in self.segments), default=0)
        for place, each in enumerate(self.segments):
            if each.file is None and each.hour != newest:
                each.file = _write_arrays(folder, each.arrays())
                self.segments[place] = _Segment.load(folder, each.to_document())

    def drop_ends(self, deliveries: Sequence[int]) -> None:
        """Forget that these deliveries ended: they have been replayed since."""
        if deliveries:
            ids = np.array(deliveries, dtype=np.float64)
            self.segments = [each.without(ids) for each in self.segments]

    def add(self, segments: Iterable[_Segment]) -> None:
        """Put new segments to those of their hour, which are few and each much smaller than the one before."""
        newest = max((each.hour for each in self.segments), default=0)
        for new in segments:
            of_hour = [each for each in self.segments if each.hour == new.hour]
            joined = [new]
            while of_hour and of_hour[-1].size <= 2 * sum(each.size for each in joined):
                joined.append(of_hour.pop())
            others = [each for each in self.segments if each.hour != new.hour]
            self.segments = [*others, *of_hour, _merged(joined)]
        if newest < max((each.hour for each in self.segments), default=0):
            # An hour is over: hardly anything will be added to it.
            by_hour: defaultdict[int, list[_Segment]] = defaultdict(list)
            for each in self.segments:
                by_hour[each.hour].append(each)
            self.segments = [_merged(of_hour) for of_hour in by_hour.values()]


async def measure_sliding(store: Store, *, hours: float, folder: Path | None) -> tuple[Totals, Statistics]:
    """Read counters and gauges, and compute the statistics of the last hours, all of one snapshot.

    Args:
        store: open.
        hours: how far to look back.
        folder: where to keep what was read, for its owner alone; None keeps nothing.
    """
    now = store.clock()
    known = None if folder is None else _load(folder, str(store))
    totals, found, kept = await store.read(
        _measure, known, folder, store=str(store), now=now, since=now - hours * _HOUR
    )
    if folder is not None:
        with contextlib.suppress(OSError, ResonantError):  # the next export reads all again
            _save(folder, kept)
    return totals, found


def _measure(
    connection: Connection, kept: _Kept | None, folder: Path | None, *, store: str, now: float, since: float
) -> tuple[Totals, Statistics, _Kept]:
    purged = measuring.read_purged(connection)
    is_known = (
        kept is not None
        and kept.purged == purged
        and kept.since <= since
        and measuring.has_mark(connection, kept.mark)
    )
    if kept is None or not is_known:
        kept = _Kept(store, since, purged)
    after = 0 if kept.mark is None else kept.mark.id
    mark = measuring.read_settled(connection, after=after, now=now) or kept.mark
    settled_id = 0 if mark is None else mark.id
    # Of a store that is not known yet, what lies outside the window need not be read.
    for new in _read(connection, kept.names, after, settled_id, since=None if is_known else since):
        kept.drop_ends(new.replayed)
        kept.add(new.segments())
        kept.delivered += new.delivered
        if folder is not None:
            with contextlib.suppress(OSError):
                kept.put_away(folder)
    recent = list(_read(connection, kept.names, settled_id, None))
    recent_delivered = sum((each.delivered for each in recent), Counter[str]())
    if not is_known:
        kept.delivered = Counter(measuring.read_delivered(connection))
        kept.delivered.subtract(recent_delivered)
    kept.mark = mark

    cancelled = _Batch(kept.names)
    cancelled.add_ends(measuring.read_cancelled(connection, since=since - _CLOCKS_DIFFER))
    recent.append(cancelled)
    kept.drop_ends(measuring.read_replayed(connection))
    for each in recent:
        kept.drop_ends(each.replayed)
    kept.segments = [each for each in kept.segments if each.hour + _HOUR > since]
    # Whole hours stay, so that a clock that is a little behind the last one need not read all again.
    kept.since = max(kept.since, since // _HOUR * _HOUR)
    segments = [*kept.segments, *(each for batch in recent for each in batch.segments())]
    cut = [each.since(since) if each.hour < since else each for each in segments]

    delivered = kept.delivered + recent_delivered
    totals = measuring.read_totals(connection, now=now, delivered=delivered)
    unfinished = measuring.read_unfinished(connection)
    return totals, _statistics(kept.names, cut, unfinished, since=since, until=now), kept


class _Batch:
    """What is read from the store, page by page, until it is made into segments."""

    def __init__(self, names: _Names) -> None:
        self.delivered = Counter[str]()
        self.replayed: list[int] = []  # deliveries with a new end, that may have had another
        self.size = 0
        self._names = names
        self._attempts: list[Floats] = []  # moment, kind, duration
        self._delays: list[Floats] = []  # moment, kind, delay
        self._ended: list[Floats] = []  # moment, kind, attempts, delivery id, time from acceptance

    def add(self, rows: Sequence[measuring.Recorded]) -> None:
        code = self._names.attempts.code
        kinds = [
            code(row.endpoint, row.event_type, row.result, row.category, row.code, row.error_type)
            for row in rows
        ]
        moments = [row.started_at for row in rows]
        self._attempts.append(np.array([moments, kinds, [row.duration for row in rows]], dtype=np.float64))
        code = self._names.delays.code
        delays = [
            (
                row.started_at,
                code(row.endpoint, row.policy or "", row.round_attempt, row.retry_after is not None),
                row.delay,
            )
            for row in rows
            if row.delay is not None
        ]
        self._delays.append(np.array(delays, dtype=np.float64).reshape(-1, 3).T)
        ends = [row for row in rows if row.is_end]
        self.add_ends(ends)
        self.delivered.update(row.endpoint for row in ends if row.status == "delivered")
        self.size += len(rows)

    def add_ends(self, rows: Sequence[measuring.Recorded | measuring.End]) -> None:
        code = self._names.ended.code
        ended = [
            (
                row.finished_at,
                code(row.endpoint, row.event_type, row.status, row.reason),
                row.attempts,
                row.delivery_id,
                row.finished_at - row.accepted_at,
            )
            for row in rows
        ]
        self.replayed += [row.delivery_id for row in rows if row.round > 1]
        self._ended.append(np.array(ended, dtype=np.float64).reshape(-1, 5).T)

    def segments(self) -> list[_Segment]:
        """Part it by hours."""
        attempts, delays, ended = (
            np.concatenate([np.empty((width, 0)), *arrays], axis=1)
            for width, arrays in ((3, self._attempts), (3, self._delays), (5, self._ended))
        )
        parts = [_by_hour(rows) for rows in (attempts, delays, ended)]
        hours = sorted({hour for part in parts for hour in part})
        return [
            self._segment(
                hour,
                parts[0].get(hour, attempts[:, :0]),
                parts[1].get(hour, delays[:, :0]),
                parts[2].get(hour, ended[:, :0]),
            )
            for hour in hours
        ]

    def _segment(self, hour: int, attempts: Floats, delays: Floats, ended: Floats) -> _Segment:
        names = self._names
        answered = attempts[:, ~_is(names.attempts, 2, "lost")[_whole(attempts[1])]]
        delivered = ended[:, _is(names.ended, 2, "delivered")[_whole(ended[1])]]
        piles = {"delay": _Pile.of(_whole(delays[1]), delays[2], delays[0])}
        # A clock that was put back makes no negative duration.
        for name, kinds, rows, values in (
            ("latency", names.attempts, answered, answered[2].clip(min=0)),
            ("took", names.ended, delivered, delivered[4].clip(min=0)),
        ):
            kind = _whole(rows[1])
            endpoints = np.array([names.endpoints.code(each[0]) for each in kinds], dtype=np.int64)
            types = np.array([names.types.code(each[1]) for each in kinds], dtype=np.int64)
            piles[name] = _Pile.of(np.zeros_like(kind), values, rows[0])
            piles[f"{name}_endpoint"] = _Pile.of(endpoints[kind], values, rows[0])
            piles[f"{name}_type"] = _Pile.of(types[kind], values, rows[0])
        return _Segment.of(hour, attempts[:2], ended[:4], piles)


def _read(
    connection: Connection, names: _Names, after: int, until: int | None, *, since: float | None = None
) -> Iterator[_Batch]:
    batch = _Batch(names)
    for page in measuring.each_recorded(connection, after=after, until=until, since=since):
        batch.add(page)
        if batch.size >= _BATCH:
            yield batch
            batch = _Batch(names)
    yield batch


def _by_hour(rows: Floats) -> dict[int, Floats]:
    hours = rows[0] // _HOUR * _HOUR
    return {int(hour): rows[:, hours == hour] for hour in np.unique(hours)}


def _whole(numbers: Floats) -> NDArray[np.int64]:
    return numbers.astype(np.int64)


def _is(kinds: _Codes, place: int, value: str) -> NDArray[np.bool_]:
    return np.array([kind[place] == value for kind in kinds], dtype=np.bool_)


def _merged(segments: Sequence[_Segment]) -> _Segment:
    if len(segments) == 1:
        return segments[0]
    piles = {}
    for name in _PILES:
        of_name = [each.piles[name] for each in segments]
        piles[name] = _Pile.of(
            np.concatenate([pile.keys for pile in of_name]),
            np.concatenate([pile.values for pile in of_name]),
            np.concatenate([pile.moments for pile in of_name]),
        )
    attempts = np.concatenate([each.attempts for each in segments], axis=1)
    ended = np.concatenate([each.ended for each in segments], axis=1)
    return _Segment.of(segments[0].hour, attempts, ended, piles)


def _counts(kinds: Floats) -> dict[int, int]:
    counts = np.bincount(_whole(kinds))
    return {int(kind): int(counts[kind]) for kind in np.flatnonzero(counts)}


def _tallies(ended: Floats) -> dict[int, _Tally]:
    kinds, retries = _whole(ended[1]), ended[2] - 1
    number, tried = np.bincount(kinds), np.bincount(kinds, retries >= 0)
    total = np.bincount(kinds, retries.clip(min=0))
    most = np.zeros(len(number))
    np.maximum.at(most, kinds, retries.clip(min=0))
    return {
        int(kind): _Tally(int(number[kind]), int(tried[kind]), int(total[kind]), int(most[kind]))
        for kind in np.flatnonzero(number)
    }


def _statistics(
    names: _Names,
    segments: Sequence[_Segment],
    unfinished: Sequence[Unfinished],
    *,
    since: float,
    until: float,
) -> Statistics:
    attempts = _Sums(names, segments, unfinished)
    runs = _runs(segments)

    def figures(place: int | None, name: str | None, suffix: str, key: int | None) -> Figures:
        return attempts.figures(
            lambda kind: place is None or kind[place] == name,
            _spread(runs[f"latency{suffix}"].get(key, [])),
            _spread(runs[f"took{suffix}"].get(key, [])),
        )

    by_name = []
    for place, suffix, codes in ((0, "_endpoint", names.endpoints), (1, "_type", names.types)):
        key_of = {name: key for key, (name,) in enumerate(codes)}
        found = sorted(attempts.names(place))
        by_name.append({name: figures(place, name, suffix, key_of.get(name)) for name in found})
    return Statistics(
        since=since,
        until=until,
        overall=figures(None, None, "", _ALL),
        by_endpoint=by_name[0],
        by_event_type=by_name[1],
        hourly=_hourly(names, segments, since=since, until=until),
        delays=_delays(names, runs["delay"]),
    )


class _Run(NamedTuple):
    """Sorted values, and their sum."""

    values: Floats
    total: float


def _runs(segments: Iterable[_Segment]) -> dict[str, dict[int | None, list[_Run]]]:
    """Return the runs of each group of each pile."""
    runs: dict[str, dict[int | None, list[_Run]]] = {name: {} for name in _PILES}
    for segment in segments:
        for name, pile in segment.piles.items():
            for key, start, stop, total in pile.groups:
                runs[name].setdefault(key, []).append(_Run(pile.values[start:stop], total))
    return runs


class _Sums:
    """Counts by kind, added up."""

    def __init__(self, names: _Names, segments: Iterable[_Segment], unfinished: Iterable[Unfinished]) -> None:
        attempts, ended = Counter[int](), defaultdict[int, list[_Tally]](list)
        for segment in segments:
            attempts.update(segment.attempt_counts)
            for kind, tally in segment.ended_counts.items():
                ended[kind].append(tally)
        kinds = list(names.attempts)
        self._attempts = {kinds[code]: number for code, number in attempts.items()}
        kinds = list(names.ended)
        self._deliveries = {kinds[code]: tallies for code, tallies in ended.items()}
        for each in unfinished:
            tried = each.number if each.attempts else 0
            retries = max(0, each.attempts - 1)
            tally = _Tally(each.number, tried, tried * retries, retries)
            key = (each.endpoint, each.event_type, "unfinished", None)
            self._deliveries.setdefault(key, []).append(tally)

    def names(self, place: int) -> set[str]:
        return {str(kind[place]) for kind in (*self._attempts, *self._deliveries)}

    def figures(
        self, is_counted: Callable[[tuple[Any, ...]], bool], latency: Spread, end_to_end: Spread
    ) -> Figures:
        attempts = [(kind, number) for kind, number in self._attempts.items() if is_counted(kind)]
        failures = [(kind, number) for kind, number in attempts if kind[2] != "delivered"]
        ends = [
            (kind[2], kind[3], tally)
            for kind, tallies in self._deliveries.items()
            if is_counted(kind)
            for tally in tallies
        ]
        by_status, reasons = Counter[str](), Counter[str]()
        for status, reason, tally in ends:
            by_status[status] += tally.number
            if status == "dead_letter" and reason is not None:
                reasons[reason] += tally.number
        tried = sum(tally.tried for *_, tally in ends)
        total = sum(tally.retries for *_, tally in ends)
        return Figures(
            events=Events(
                total=by_status.total(),
                success=by_status["delivered"],
                dead_letter=by_status["dead_letter"],
                failed=reasons["permanent"],
                unfinished=by_status["unfinished"],
            ),
            attempts=Attempts(
                total=sum(number for _, number in attempts), failed=sum(number for _, number in failures)
            ),
            latency=latency,
            end_to_end=end_to_end,
            retries=Retries(
                total=total,
                avg=total / tried if tried else None,
                max=max(tally.most for *_, tally in ends if tally.tried) if tried else None,
            ),
            reasons=_ranked(reasons.items()),
            error_categories=_ranked((kind[3], number) for kind, number in failures),
            error_codes=_ranked((kind[4], number) for kind, number in failures),
            error_types=_ranked((kind[5], number) for kind, number in failures),
        )


def _ranked(counted: Iterable[tuple[str | None, int]]) -> dict[str, int]:
    counts = Counter[str]()
    for name, number in counted:
        if name is not None:
            counts[name] += number
    found = [item for item in counts.items() if item[1]]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))


def _hourly(names: _Names, segments: Sequence[_Segment], *, since: float, until: float) -> tuple[Hour, ...]:
    of_hours: defaultdict[int, list[_Segment]] = defaultdict(list)
    for segment in segments:
        # Not beyond the window, as a clock may be years ahead.
        if segment.size and since - _HOUR < segment.hour <= until:
            of_hours[segment.hour].append(segment)
    if not of_hours:
        return ()
    return tuple(
        _hour(names, hour, of_hours.get(hour, [])) for hour in range(min(of_hours), int(until) + 1, _HOUR)
    )


def _hour(names: _Names, start: int, segments: Sequence[_Segment]) -> Hour:
    figures = _Sums(names, segments, ()).figures(
        lambda _: True, _spread(_runs(segments)["latency"].get(_ALL, [])), Spread()
    )
    return Hour(
        start=start,
        attempts=figures.attempts.total,
        failed_attempts=figures.attempts.failed,
        success=figures.events.success,
        dead_letter=figures.events.dead_letter,
        latency=figures.latency,
    )


def _delays(names: _Names, runs: Mapping[int | None, Sequence[_Run]]) -> tuple[Delays, ...]:
    kinds = list(names.delays)
    found = []
    for key, of_kind in runs.items():
        endpoint, policy, after, asked = kinds[key or 0]
        values = [run.values for run in of_kind]
        [median] = _quantiles(values, (0.5,))
        low, high = float(min(run[0] for run in values)), float(max(run[-1] for run in values))
        count = sum(map(len, values))
        found.append(Delays(endpoint, policy or None, after, asked, count, low, median, high))
    return tuple(sorted(found, key=lambda each: (each.endpoint, each.policy or "", each.after, each.asked)))


def _spread(runs: Sequence[_Run]) -> Spread:
    if not runs:
        return Spread()
    values = [run.values for run in runs]
    average = sum(run.total for run in runs) / sum(map(len, values))
    low, high = float(min(run[0] for run in values)), float(max(run[-1] for run in values))
    p50, p95, p99 = _quantiles(values, _QUANTILES)
    return Spread(low, average, p50, p95, p99, high)


def _quantiles(runs: Sequence[Floats], quantiles: Sequence[float]) -> list[float]:
    """Interpolate linearly between the two nearest of all values, as numpy does by default."""
    size = sum(map(len, runs))
    if size <= _FEW:
        together = np.sort(np.concatenate(runs))
        runs = [together]
    found = []
    for quantile in quantiles:
        place = quantile * (size - 1)
        low = _select(runs, int(place))
        part = place - int(place)
        found.append(low + part * (_next(runs, low, int(place) + 1) - low) if part else low)
    return found


def _next(runs: Sequence[Floats], value: float, rank: int) -> float:
    """Return the value with this rank, when ``value`` has the one before."""
    places = [int(run.searchsorted(value, "right")) for run in runs]
    if sum(places) > rank:
        return value
    return min(float(run[place]) for run, place in zip(runs, places, strict=True) if place < len(run))


def _select(runs: Sequence[Floats], rank: int) -> float:
    """Return the value that has this rank, from 0, among all values of sorted runs.

    Some values of each run say between which two the wanted one must be, and what is beyond these is put aside, until few
    are left.
    """
    while len(runs) > 1 and sum(map(len, runs)) > _FEW:
        steps = [-(-len(run) // _SAMPLES) for run in runs]
        samples = np.concatenate([run[::step] for run, step in zip(runs, steps, strict=True)])
        weights = np.repeat(steps, [-(-len(run) // step) for run, step in zip(runs, steps, strict=True)])
        order = np.argsort(samples)
        samples = samples[order]
        # Not more values than this are up to a sample, and not fewer than that without the last step of each run.
        at_most = np.cumsum(weights[order])
        at_least = at_most - sum(step - 1 for step in steps)
        above = int(at_least.searchsorted(rank, "right"))
        highest = samples[above] if above < len(samples) else max(run[-1] for run in runs)
        below = int(at_most.searchsorted(rank, "right"))
        # Of equal samples, only all together say how many values there are up to them.
        below = int(samples.searchsorted(samples[below], "left")) if below < len(samples) else below
        starts = [0] * len(runs)
        if below:
            starts = [int(run.searchsorted(samples[below - 1], "right")) for run in runs]
        stops = [int(run.searchsorted(highest, "left")) for run in runs]
        left_out = sum(starts)
        if sum(max(start, stop) for start, stop in zip(starts, stops, strict=True)) <= rank:
            return float(highest)
        rank -= left_out
        runs = [run[start:stop] for run, start, stop in zip(runs, starts, stops, strict=True) if start < stop]
    if len(runs) == 1:
        return float(runs[0][rank])
    return float(np.partition(np.concatenate(runs), rank)[rank])


def _load(folder: Path, store: str) -> _Kept | None:
    """Return what was kept of this store; None where there is nothing that can be used."""
    try:
        document = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        if (document["format"], document["store"]) != (_FORMAT, store):
            return None
        return _Kept(
            store,
            document["since"],
            document["purged"],
            measuring.Mark(*document["mark"]) if document["mark"] else None,
            Counter(document["delivered"]),
            _Names(*(_Codes(document["names"][name]) for name in _Names._fields)),
            [_Segment.load(folder, each) for each in document["segments"]],
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _save(folder: Path, kept: _Kept) -> None:
    """Keep it: what is new in files of their own, then, in one step, the list of all of them.

    Raises:
        OSError, ResonantError: it cannot be written; what was kept before is untouched.
    """
    for segment in kept.segments:
        if segment.file is None:
            segment.file = _write_arrays(folder, segment.arrays())
    document = {
        "format": _FORMAT,
        "store": kept.store,
        "since": kept.since,
        "purged": kept.purged,
        "mark": kept.mark,
        "delivered": kept.delivered,
        "names": {name: list(codes) for name, codes in kept.names._asdict().items()},
        "segments": [each.to_document() for each in kept.segments],
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_file(folder / _MANIFEST) as write:
        write(json.dumps(document))
    files = {segment.file for segment in kept.segments}
    for path in folder.glob("*.npy"):
        if path.name not in files:
            path.unlink(missing_ok=True)


def _write_arrays(folder: Path, arrays: Sequence[Floats]) -> str:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{secrets.token_hex(8)}.npy"
    fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
        np.save(file, np.concatenate(arrays), allow_pickle=False)
        file.flush()
        os.fsync(fd)
    return name
