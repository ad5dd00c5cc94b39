"""The background work of a run: it folds counts, wakes the run after commits, and reports that it is alive."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resonant.dispatch.limits import WAIT_SECONDS
from resonant.dispatch.run.running_tasks import RunningTasks
from resonant.errors import StoreError
from resonant.store import WorkerStore
from resonant.store.shared import drains
from resonant.store.shared.processes import this_process

# How often claims are noted, and accepted events and tallies are folded. Readers add up unfolded counts; each fold costs a few
# milliseconds.
FOLD_SECONDS = 5.0
# How long the last fold may take.
_LAST_FOLD_SECONDS = 1.0
# The shortest time between two wake-ups while commits go on.
_REST_SECONDS = 0.02


async def fold_regularly(store: WorkerStore) -> None:
    """Note claims, and fold accepted events and tallies, until cancelled, and then once more.

    Run it in the background, so that a claim never waits for it, nor for a transaction that has locked a ledger.
    """
    try:
        while True:
            await _fold(store)
            await asyncio.sleep(FOLD_SECONDS)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_FOLD_SECONDS):
                await _fold(store)


async def _fold(store: WorkerStore) -> None:
    with contextlib.suppress(StoreError):  # the next fold tries again; the next claim reports an outage
        await store.note_claims()
        await store.fold()


async def wake_on_commits(store: WorkerStore, wake: Callable[[frozenset[str] | None], None]) -> None:
    """Call ``wake`` soon after each commit of new work, until cancelled, so that the run need not wait for the next poll.

    Args:
        wake: called with the endpoints that have new work; None if unknown.
    """
    async with contextlib.aclosing(store.database.commits()) as commits:
        async for endpoints in commits:
            wake(endpoints)
            await asyncio.sleep(_REST_SECONDS)


@dataclass(slots=True)
class Report:
    """The report that a run is alive, so that others rescue its leases once its process has ended.

    Args:
        store: the store in which runs report.
        owner: the owner of the run's leases.
        endpoint: the only endpoint that the run sends to; None for all.
        successors: the number of younger drains after which the run ends; 0 if it is not a drain.
        process: returns the name of this process.
    """

    store: WorkerStore
    owner: str
    endpoint: str | None = None
    successors: int = 0
    process: Callable[[], str | None] = this_process
    _key: int | None = None

    async def send(self) -> int:
        """Report once, first before the first claim; return the number of younger drains that are alive."""
        facts: dict[str, Any] = {
            "owner": self.owner,
            "endpoint": self.endpoint if self.successors else drains.NO_DRAIN,
            "process": self.process(),
            "clock_ahead": self.store.clock_ahead,
        }
        beat = await self.store.write_unsynced(drains.beat, self._key, clock=self.store.clock, **facts)
        self._key = beat.key
        return beat.younger

    async def repeat(self, running: RunningTasks) -> None:
        """Report until the end of the run.

        End a drain when enough younger drains are alive; continue it if one of them dies. After its end, a run claims nothing
        more but may still finish sends, so it must not count as a successor.
        """
        latest_end = running.end
        had_successors = False
        try:
            while not running.is_over():
                with contextlib.suppress(StoreError):  # the run's next commit raises the error
                    has_successors = 0 < self.successors <= await self.send()
                    if has_successors and not had_successors:
                        # So that retries that wait in this process are sent first.
                        running.end_in(WAIT_SECONDS)
                    elif had_successors and not has_successors:
                        running.end = latest_end
                    had_successors = has_successors
                await asyncio.sleep(min(drains.BEAT_SECONDS, running.seconds_left()))
        finally:
            with contextlib.suppress(StoreError):
                await self.store.write_unsynced(drains.leave, self._key)
