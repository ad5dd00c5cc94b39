"""Ids below the newest one that was read, where an attempt may still appear: its transaction is under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from resonant.metrics.snapshot import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

# Longer than a transaction of a worker can take: the server ends each of its statements after a minute.
_UNSETTLED_SECONDS = 300.0
# More than all workers together write in that time; so the first look at a very large store takes seconds and not minutes.
MOST_WATCHED = 5_000_000


class Sight(NamedTuple):
    """The newest id that an export saw, and when; seconds since the epoch, by its own clock."""

    id: int
    at: float


@dataclass(slots=True)
class Watch:
    """What is watched.

    Attributes:
        settled: up to this id, no attempt will appear any more.
        runs: the ids above it that are there.
        sights: those of the last minutes, in the order of their ids.
    """

    settled: int = 0
    runs: list[Run] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)

    def saw(self, runs: Sequence[Run], newest: int, *, now: float) -> None:
        """Note what was found, and settle what others had seen long enough before.

        Transactions with ids up to a settled one have had five minutes to commit; ``runs`` contains their rows.
        """
        # After a clock was set back, count from now, so that nothing settles too early.
        sights = [Sight(each.id, min(each.at, now)) for each in self.sights]
        old = [each.id for each in sights if each.at <= now - _UNSETTLED_SECONDS]
        self.settled = max([self.settled, *old])
        self.sights = [each for each in sights if each.id > self.settled]
        if newest > max([self.settled, *(each.id for each in self.sights)]):
            self.sights.append(Sight(newest, now))
        self.runs = [
            Run(max(run.first, self.settled + 1), run.last) for run in runs if run.last > self.settled
        ]


def appeared(before: Sequence[Run], after: Sequence[Run], *, until: int) -> list[Run]:
    """Return the ids up to ``until`` that are in ``after`` and not in ``before``; both are sorted, and none has gone."""
    found = []
    place = 0
    for run in after:
        first, last = run.first, min(run.last, until)
        while place < len(before) and before[place].last <= last:
            known = before[place]
            if first < known.first:
                found.append(Run(first, known.first - 1))
            first = known.last + 1
            place += 1
        if first <= last:
            found.append(Run(first, last))
    return found
