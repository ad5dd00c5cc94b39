"""Attempts and ends of events, hour by hour: counts by kind, and sorted times by group."""

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
# The one group of the piles that are of everything.
ALL = 0


class Codes:
    """Numbers for the kinds of facts that were seen, in the order in which they were."""

    def __init__(self, kinds: Iterable[Sequence[Any]] = ()) -> None:
        self._code = {tuple(kind): code for code, kind in enumerate(kinds)}

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._code)

    def code(self, *kind: Any) -> int:
        """Return the number of a kind; one that is new gets the next."""
        return self._code.setdefault(kind, len(self._code))


class Names(NamedTuple):
    """What the numbers in segments stand for.

    Attributes:
        attempts: endpoint, event type, result, category, code, error type.
        ended: endpoint, event type, status, reason.
        delays: endpoint, policy or "", number of the attempt in its round, whether a wait was asked for.
    """

    attempts: Codes
    ended: Codes
    delays: Codes
    endpoints: Codes
    types: Codes

    @classmethod
    def empty(cls) -> Names:
        """Return names of nothing."""
        return cls(Codes(), Codes(), Codes(), Codes(), Codes())


class Group(NamedTuple):
    """Where a group's values are in a pile, and their sum."""

    key: int
    start: int
    stop: int
    total: float


@dataclass(frozen=True, slots=True)
class Pile:
    """Values by group, sorted within each, and the moment that each is of."""

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
        """Return the values of a moment or later."""
        kept = self.moments >= moment
        return self._grouped(self.keys[kept], self.values[kept], self.moments[kept])


@dataclass(frozen=True, slots=True)
class Tally:
    """Events that ended, of one kind: how many, how many of them were tried, and the attempts after the first."""

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
        file: where it is kept; None where it is not yet.
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
        """Count what lies in an hour."""
        return cls(hour, attempts, ended, piles, _counts(attempts[1]), _tallies(ended))

    @property
    def size(self) -> int:
        """How many attempts and ends there are."""
        return len(self.attempts[0]) + len(self.ended[0])

    def since(self, moment: float) -> Segment:
        """Return the part of it from a moment on."""
        return Segment.of(
            self.hour,
            self.attempts[:, self.attempts[0] >= moment],
            self.ended[:, self.ended[0] >= moment],
            {name: pile.since(moment) for name, pile in self.piles.items()},
        )

    def without(self, dead: Floats) -> Segment:
        """Return it without the end of these dead letters, or itself where it has none of them."""
        gone = np.isin(self.ended[3], dead)
        if not gone.any():
            return self
        return Segment.of(self.hour, self.attempts, self.ended[:, ~gone], self.piles)

    def arrays(self) -> list[Floats]:
        """Return all that its file holds."""
        piles = (self.piles[name] for name in PILES)
        rows = [*self.attempts, *self.ended]
        return rows + [array for pile in piles for array in (pile.values, pile.moments)]

    def to_document(self) -> dict[str, Any]:
        """Return what ``load`` needs beside the file."""
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
    """Put segments of one hour together."""
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
    """Return numbers that are whole as such."""
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
