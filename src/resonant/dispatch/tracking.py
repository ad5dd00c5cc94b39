"""Tracks the outcomes of given deliveries, no matter which process sends them.

A command waits for the events that it stored, not for all due deliveries. Another process may send them, so the tracker
polls the store, with short queries over the deliveries that have not ended.
"""

from __future__ import annotations  # in Python 3.11, an array has no type parameter

import asyncio
import math
from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import groupby

from resonant.dispatch.counts import Counts
from resonant.dispatch.held import count_held, say_parked
from resonant.dispatch.limits import WAIT_SECONDS
from resonant.events import rfc3339
from resonant.store import WorkerStore
from resonant.store.shared.gates import read_gates
from resonant.store.views.standing import Standing, parked_deliveries, standing

SLICE = 1_000
# A poll ends after this many unfinished deliveries. Deliveries are sent roughly in the order of their keys, so those that end
# next are among the first.
_MOST_UNSETTLED = 4_000
# The pause between polls is this multiple of the last poll's duration, within these bounds.
_PAUSE_FACTOR = 20
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 2.0


class Tracker:
    """Counts the outcomes of deliveries; holds eight bytes for each unfinished one.

    Args:
        store: the store to poll.
        since: when tracking began, seconds since the epoch; now by default.

    Attributes:
        outcomes: the outcomes so far.
        paused: the paused endpoints, if any delivery is held; set by ``finish``.
        holding: a line about each endpoint whose gate holds due deliveries, if any tracked one is held; set by ``finish``.
        parked: a line about the tracked deliveries that are parked, if there are any; set by ``finish``.
        unavailable: the reasons why endpoints cannot be opened, keyed by name; their deliveries count as held.
    """

    def __init__(self, store: WorkerStore, *, since: float | None = None) -> None:
        self.since = store.clock() if since is None else since
        self.outcomes = Counts()
        self.paused: frozenset[str] = frozenset()
        self.holding: list[str] = []
        self.parked = ""
        self.unavailable: Mapping[str, str] = {}
        # When the first dead letter was given up.
        self._dead_since = math.inf
        self._store = store
        self._unsettled: deque[array[int]] = deque()
        self._parked = array("q")
        self._held = array("q")
        self._next_look = 0.0
        self._looking = asyncio.Lock()

    @property
    def is_settled(self) -> bool:
        """Whether every tracked delivery is delivered, a dead letter, parked, held or purged."""
        return not self._unsettled

    def add(self, delivery_ids: Iterable[int]) -> None:
        """Track these deliveries, which must be new to the tracker; duplicates count once."""
        ids = array("q", (key for key, _ in groupby(sorted(delivery_ids))))
        self.outcomes.total += len(ids)
        self._unsettled.extend(ids[start : start + SLICE] for start in range(0, len(ids), SLICE))

    async def look_if_due(self) -> None:
        """Poll the store, unless the last poll was too recent."""
        if self._unsettled and asyncio.get_running_loop().time() >= self._next_look:
            await self.look()

    async def look(self) -> None:
        """Count the deliveries that have ended since the last poll.

        Raises:
            StoreUnavailable: the store became unreachable.
        """
        async with self._looking:
            await self._look(_MOST_UNSETTLED)

    async def _look(self, most_unsettled: float) -> None:
        started = asyncio.get_running_loop().time()
        left: deque[array[int]] = deque()
        unsettled = 0
        try:
            while self._unsettled and unsettled < most_unsettled:
                rest = await self._settle(self._unsettled[0])
                self._unsettled.popleft()
                unsettled += len(rest)
                if left and len(left[-1]) + len(rest) <= SLICE:
                    left[-1].extend(rest)
                elif rest:
                    left.append(rest)
        finally:
            self._unsettled.extendleft(reversed(left))
            ended = asyncio.get_running_loop().time()
            pause = max(_SHORTEST_PAUSE_SECONDS, _PAUSE_FACTOR * (ended - started))
            self._next_look = ended + min(_LONGEST_PAUSE_SECONDS, pause)

    async def finish(self, *, ended: str | None = None) -> None:
        """Poll all unfinished deliveries, including parked and held ones, which may have been sent since.

        Args:
            ended: the owner of the run that ends now, as for ``count_held``.

        Raises:
            StoreUnavailable: the store became unreachable.
        """
        async with self._looking:
            await self._look(math.inf)
            again = self._parked + self._held
            self._parked, self._held = array("q"), array("q")
            try:
                while again:
                    # Those that have become due meanwhile still count as parked.
                    self._parked.extend(await self._settle(again[:SLICE]))
                    del again[:SLICE]
            finally:
                self._parked.extend(again)
                self.outcomes.parked = len(self._parked)
            gates = await self._store.read(read_gates) if self._held else {}
            self.paused = frozenset(name for name, gate in gates.items() if gate.state == "paused")
            self.holding = await count_held(self._store, Counts(), None, ended=ended) if self._held else []
            slices = (self._parked[start : start + SLICE] for start in range(0, len(self._parked), SLICE))
            parked = [each for ids in slices for each in await self._store.read(parked_deliveries, ids)]
            self.parked = await say_parked(self._store, parked)

    def dead_letters_shown_by(self, endpoint: str | None) -> str:
        """Return a command that lists the dead letters among the tracked deliveries, and possibly others from that time."""
        of_endpoint = "" if endpoint is None else f" --endpoint {endpoint}"
        return f"resonant dlq{of_endpoint} --since {rfc3339(min(self.since, self._dead_since))}"

    async def _settle(self, ids: array[int]) -> array[int]:
        """Count the settled deliveries, and return the rest."""
        found = await self._store.read(
            standing, ids, now=self._store.clock(), wait=WAIT_SECONDS, unavailable=[*self.unavailable]
        )
        self.outcomes.purged += len(ids) - len(found)
        left = array("q")
        for each in found:
            if each.finished_at is not None:
                self._count(each, each.finished_at)
            elif each.parked:
                self._parked.append(each.id)
            else:
                (self._held if each.held else left).append(each.id)
        self.outcomes.parked, self.outcomes.held = len(self._parked), len(self._held)
        return array("q", sorted(left))

    def _count(self, ended: Standing, at: float) -> None:
        outcomes = self.outcomes
        # Compare accepted_at too: with skewed clocks, a delivery accepted since then may appear to have ended before.
        before = ended.accepted_at < self.since and at < self.since
        if ended.reason is not None and ended.status == "dead_letter":
            outcomes.dead_letters[ended.reason] += 1
            self._dead_since = min(self._dead_since, at)
        elif before:
            outcomes.delivered_before += 1
        else:
            outcomes.delivered += 1
        if not before and ended.round_attempts > 1:
            outcomes.retried += 1
