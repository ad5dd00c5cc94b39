"""Folds the counts of a store during a run."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant.errors import StoreError

if TYPE_CHECKING:
    from resonant.store import WorkerStore

# How often accepted events and tallies are folded. Readers add up unfolded counts; each fold costs a few milliseconds.
FOLD_SECONDS = 5.0
# How long the last fold may take.
_LAST_FOLD_SECONDS = 1.0


async def fold_regularly(store: WorkerStore) -> None:
    """Fold accepted events and tallies until cancelled, and then once more.

    Run it in the background, so that a claim never waits for a transaction that has locked a ledger.
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
        await store.fold()
