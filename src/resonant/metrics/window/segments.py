"""Attempts and ends of events by the hour: counts by kind, and sorted times by group."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

HOUR_SECONDS = 3600
PILES = ("latency", "latency_endpoint", "latency_type", "took", "took_endpoint", "took_type", "delay")
# The only group of the piles that are not grouped.
ALL = 0


class Codes:
    """Numbers for kinds of facts, in the order of their first use."""

    def __init__(self, kinds: Iterable[Sequence[Any]] = ()) -> None:
        self._code = {tuple(kind): code for code, kind in enumerate(kinds)}

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._code)

    def code(self, *kind: Any) -> int:
        """Return the number of a kind; a new kind gets the next number."""
        return self._code.setdefault(kind, len(self._code))


class Names(NamedTuple):
    """The kinds that the numbers in segments stand for.

    Attributes:
        attempts: endpoint, event type, result, category, code, error type.
        ended: endpoint, event type, status, reason.
        delays: endpoint, policy or "", number of the attempt in its round, whether the endpoint asked for a wait.
    """

    attempts: Codes
    ended: Codes
    delays: Codes
    endpoints: Codes
    types: Codes

    @classmethod
    def empty(cls) -> Names:
        """Return names without any kind."""
        return cls(Codes(), Codes(), Codes(), Codes(), Codes())


class Group(NamedTuple):
    """The place of a group's values in a pile, and their sum."""

    key: int
    start: int
    stop: int
    total: float


@dataclass(frozen=True, slots=True)
class Pile:
    """Values by group, sorted within each group, with the time of each value."""

    groups: list[Group]
    values: Floats
    moments: Floats

    @classmethod
    def of(cls, keys: NDArray[Any], values: Floats, moments: Floats) -> Pile:
        """Group values by their keys, and sort them within each."""
        order = np.lexsort((values, keys))
        return cls._grouped(keys[order], values[order], moments[order])

    @classmethod
    def _grouped(cls, keys: NDArray[Any], values: Floats, moments: Floats) -> Pile:
        if not len(values):
            return cls([], values, moments)
        starts = np.concatenate(([0], np.flatnonzero(np.diff(keys)) + 1))
        totals = np.add.reduceat(values, starts).tolist()
        bounds = [*starts.tolist(), len(values)]
        groups = [
            Group(int(keys[start]), start, stop, total)
            for (start, stop), total in zip(pairwise(bounds), totals, strict=True)
        ]
        return cls(groups, values, moments)

    @property
    def keys(self) -> NDArray[Any]:
        """The key of each value."""
        sizes = [group.stop - group.start for group in self.groups]
        return np.repeat([group.key for group in self.groups], sizes)

    def since(self, moment: float) -> Pile:
        """Return the values from this time on."""
        kept = self.moments >= moment
        return self._grouped(self.keys[kept], self.values[kept], self.moments[kept])


@dataclass(frozen=True, slots=True)
class Tally:
    """Ended events of one kind: how many, how many were tried, their retries, and the most retries of one."""

    number: int
    tried: int
    retries: int
    most: int


@dataclass(slots=True)
class Segment:
    """Some of the attempts that began in an hour, and of the events that ended in it.

    Attributes:
        attempts: rows ``moment, kind``.
        ended: rows ``moment, kind, attempts, delivery id``.
        attempt_counts, ended_counts: by kind.
        file: the name of its file; None if it is not written yet.
    """

    hour: int
    attempts: Floats
    ended: Floats
    piles: dict[str, Pile]
    attempt_counts: dict[int, int]
    ended_counts: dict[int, Tally]
    file: str | None = None

    @classmethod
    def of(cls, hour: int, attempts: Floats, ended: Floats, piles: dict[str, Pile]) -> Segment:
        """Make a segment of an hour, and count its rows."""
        return cls(hour, attempts, ended, piles, _counts(attempts[1]), _tallies(ended))

    @property
    def size(self) -> int:
        """The number of attempts and ends."""
        return len(self.attempts[0]) + len(self.ended[0])

    def since(self, moment: float) -> Segment:
        """Return the part of the segment from this time on."""
        return Segment.of(
            self.hour,
            self.attempts[:, self.attempts[0] >= moment],
            self.ended[:, self.ended[0] >= moment],
            {name: pile.since(moment) for name, pile in self.piles.items()},
        )

    def without(self, dead: Floats) -> Segment:
        """Return the segment without the ends of these dead letters; the segment itself if it has none of them."""
        gone = np.isin(self.ended[3], dead)
        if not gone.any():
            return self
        return Segment.of(self.hour, self.attempts, self.ended[:, ~gone], self.piles)

    def arrays(self) -> list[Floats]:
        """Return the content of its file."""
        piles = (self.piles[name] for name in PILES)
        rows = [*self.attempts, *self.ended]
        return rows + [array for pile in piles for array in (pile.values, pile.moments)]

    def to_document(self) -> dict[str, Any]:
        """Return the data that ``load`` needs in addition to the file."""
        return {
            "file": self.file,
            "hour": self.hour,
            "attempts": self.attempts.shape[1],
            "ended": self.ended.shape[1],
            "piles": [self.piles[name].groups for name in PILES],
            "attempt_counts": list(self.attempt_counts.items()),
            "ended_counts": [
                (kind, each.number, each.tried, each.retries, each.most)
                for kind, each in self.ended_counts.items()
            ],
        }

    @classmethod
    def load(cls, folder: Path, document: Mapping[str, Any]) -> Segment:
        """Map a segment from its file, without reading it.

        Raises:
            ValueError: the file has the wrong length.
        """
        values = np.load(folder / document["file"], mmap_mode="r", allow_pickle=False)
        taken = 0

        def take(size: int, rows: int) -> Floats:
            nonlocal taken
            taken += size * rows
            return np.asarray(values[taken - size * rows : taken]).reshape(rows, size)

        attempts, ended = take(document["attempts"], 2), take(document["ended"], 4)
        piles = {}
        for name, rows in zip(PILES, document["piles"], strict=True):
            groups = [Group(*row) for row in rows]
            of_pile = take(groups[-1].stop if groups else 0, 2)
            piles[name] = Pile(groups, of_pile[0], of_pile[1])
        if taken != len(values):
            raise ValueError(f"{document['file']} has another length")
        attempt_counts = dict(document["attempt_counts"])
        ended_counts = {kind: Tally(*tally) for kind, *tally in document["ended_counts"]}
        return cls(document["hour"], attempts, ended, piles, attempt_counts, ended_counts, document["file"])


def merged(segments: Sequence[Segment]) -> Segment:
    """Merge segments of one hour."""
    if len(segments) == 1:
        return segments[0]
    piles = {}
    for name in PILES:
        of_name = [each.piles[name] for each in segments]
        piles[name] = Pile.of(
            np.concatenate([pile.keys for pile in of_name]),
            np.concatenate([pile.values for pile in of_name]),
            np.concatenate([pile.moments for pile in of_name]),
        )
    attempts = np.concatenate([each.attempts for each in segments], axis=1)
    ended = np.concatenate([each.ended for each in segments], axis=1)
    return Segment.of(segments[0].hour, attempts, ended, piles)


def whole(numbers: Floats) -> NDArray[np.int64]:
    """Return whole numbers as integers."""
    return numbers.astype(np.int64)


def _counts(kinds: Floats) -> dict[int, int]:
    counts = np.bincount(whole(kinds))
    return {int(kind): int(counts[kind]) for kind in np.flatnonzero(counts)}


def _tallies(ended: Floats) -> dict[int, Tally]:
    kinds, retries = whole(ended[1]), ended[2] - 1
    number, tried = np.bincount(kinds), np.bincount(kinds, retries >= 0)
    total = np.bincount(kinds, retries.clip(min=0))
    most = np.zeros(len(number))
    np.maximum.at(most, kinds, retries.clip(min=0))
    return {
        int(kind): Tally(int(number[kind]), int(tried[kind]), int(total[kind]), int(most[kind]))
        for kind in np.flatnonzero(number)
    }
