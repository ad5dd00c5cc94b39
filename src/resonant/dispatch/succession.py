"""Handing over to younger drains: a drain goes on until so many of them are alive."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant.errors import StoreError
from resonant.store import drains

if TYPE_CHECKING:
    from resonant.store import Store


async def until_succeeded(store: Store, *, owner: str, endpoint: str | None, successors: int) -> None:
    """Report a run as a living drain until so many younger ones of the same deliveries are alive.

    Args:
        store: where drains report.
        owner: who holds the run's leases.
        endpoint: the only endpoint that it sends to; None for all.
        successors: how many younger ones must be alive.
    """
    key = None
    while True:
        with contextlib.suppress(StoreError):  # the run's next commit reports it
            report = await store.write(drains.beat, key, owner=owner, endpoint=endpoint, now=store.clock())
            if report.younger >= successors:
                return
            key = report.key
        await asyncio.sleep(drains.BEAT_SECONDS)
