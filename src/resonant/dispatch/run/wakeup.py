"""Wakes a run after a commit of new work, so that it need not wait for the next poll."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from resonant.store import WorkerStore

# The shortest time between two wake-ups while commits go on.
_REST_SECONDS = 0.02


async def wake_on_commits(store: WorkerStore, wake: Callable[[frozenset[str] | None], None]) -> None:
    """Call ``wake`` soon after each commit of new work, until cancelled.

    Args:
        store: an open store.
        wake: called with the endpoints that have new work; None if unknown.
    """
    async with contextlib.aclosing(store.database.commits()) as commits:
        async for endpoints in commits:
            wake(endpoints)
            await asyncio.sleep(_REST_SECONDS)
