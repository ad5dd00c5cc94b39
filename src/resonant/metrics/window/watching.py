"""Watching the ids below the newest one: an attempt may still appear there when its transaction commits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from resonant.metrics.snapshot import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

# Longer than a worker's transaction takes: the server ends each statement after a minute.
_UNSETTLED_SECONDS = 300.0
# More than all workers write in that time. The limit keeps the first look at a very large store short.
MOST_WATCHED = 5_000_000


class Sight(NamedTuple):
    """The newest id that an export saw, and when; seconds since the epoch, by its own clock."""

    id: int
    at: float


@dataclass(slots=True)
class Watch:
    """The watched ids.

    Attributes:
        settled: no attempt will appear up to this id.
        runs: the existing ids above it.
        sights: those of the last minutes, by id.
    """

    settled: int = 0
    runs: list[Run] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)

    def saw(self, runs: Sequence[Run], newest: int, *, now: float) -> None:
        """Store the ids found now, and settle those that an export saw long ago.

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
    """Return the ids up to ``until`` in ``after`` that are not in ``before``; both are sorted, and no id has gone."""
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
