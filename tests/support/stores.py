"""Stores with a clock that tests control."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from resonant.store import WorkerStore
from resonant.store.counts.counters import read_ever
from resonant.testing import FixedClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from resonant.store import Store
    from resonant.store.counts.sketches import Labels, Sketch


START = 1_700_000_000.0


def read_counters(database: Path) -> dict[Labels, Sketch]:
    """Return the counters of an SQLite store, by labels."""

    async def read() -> dict[Labels, Sketch]:
        async with opened(f"sqlite:///{database}") as store:
            return await store.read(read_ever)

    return asyncio.run(read())


@asynccontextmanager
async def opened(url: str, at: float = START) -> AsyncIterator[Store]:
    """Open a store during the block, with a fixed clock."""
    store = await WorkerStore.open(url, clock=FixedClock(at))
    try:
        yield store
    finally:
        await store.close()
