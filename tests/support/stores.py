"""Stores with a clock that tests control."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from resonant.store import WorkerStore
from resonant.testing import FixedClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from resonant.store import Store


START = 1_700_000_000.0


def fold(database: Path) -> None:
    """Fold all tallies of an SQLite store."""

    async def fold_all() -> None:
        async with opened(f"sqlite:///{database}") as store:
            await store.fold()

    asyncio.run(fold_all())


@asynccontextmanager
async def opened(url: str, at: float = START) -> AsyncIterator[Store]:
    """Open a store during the block, with a fixed clock."""
    store = await WorkerStore.open(url, clock=FixedClock(at))
    try:
        yield store
    finally:
        await store.close()
