"""Waits for an event, for a limited time."""

import asyncio
import contextlib


async def wait_at_most(seconds: float, event: asyncio.Event) -> None:
    """Wait until the event is set, for at most this many seconds."""
    with contextlib.suppress(TimeoutError):
        # Not wait_for: Python 3.11's may lose a cancellation.
        async with asyncio.timeout(seconds):
            await event.wait()
