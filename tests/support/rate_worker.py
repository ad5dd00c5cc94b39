"""A drain without Prefect, in a process for tests to kill: ``python rate_worker.py STORE RECEIVER RATE``."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from resonant.dispatch.limits import Limits
from support.dispatching import dispatching, emit, http_target, opened

_LIMITS = Limits(run_for=600.0, chunk_size=500)


async def drain(store_url: str, receiver: str, rate: float) -> None:
    """Send due deliveries until the process ends."""

    async def open_destination(name):
        return http_target(name, receiver, rate=rate)

    options = {"open_destination": open_destination, "owner": str(uuid.uuid4()), "limits": _LIMITS}
    async with opened(store_url) as store, dispatching(store, None, seed=None, **options) as dispatcher:
        await emit(dispatcher, take_over=True)


if __name__ == "__main__":
    asyncio.run(drain(sys.argv[1], sys.argv[2], float(sys.argv[3])))
