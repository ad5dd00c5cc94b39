"""Folds the counts of a store while a run goes on, in the background: a claim never waits for a ledger's lock."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant.errors import StoreError

if TYPE_CHECKING:
    from resonant.store import WorkerStore

# How often accepted events and tallies are folded. Readers add up unfolded counts; each fold costs a few milliseconds.
FOLD_SECONDS = 5.0
# How long the last fold of a run may take.
_LAST_FOLD_SECONDS = 1.0


class Folding:
    """Folds accepted events and tallies."""

    def __init__(self, store: WorkerStore) -> None:
        self._store = store
        self._fold_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start_if_due(self) -> None:
        """Start a fold, unless one was started recently or is not done."""
        now = asyncio.get_running_loop().time()
        if now < self._fold_at:
            return
        self._fold_at = now + FOLD_SECONDS
        if self._task is not None:
            if not self._task.done():
                return
            self._task.result()
        self._task = asyncio.create_task(self._fold())

    async def stop(self) -> None:
        """Fold once more, for at most a second, and stop."""
        if self._task is not None:
            last = asyncio.create_task(self._fold_after(self._task))
            done, _ = await asyncio.wait([last], timeout=_LAST_FOLD_SECONDS)
            for task in (last, self._task):
                task.cancel()
                await asyncio.wait([task])
            for task in done:
                task.result()

    async def _fold_after(self, fold: asyncio.Task[None]) -> None:
        await asyncio.wait([fold])
        await self._fold()

    async def _fold(self) -> None:
        with contextlib.suppress(StoreError):  # the next fold tries again; the next claim reports an outage
            await self._store.fold()
