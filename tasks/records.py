"""Prefect's records of task runs: its client queues them without a bound, and sends them as fast as the server takes them.

The server takes fewer than a quick emission makes (docs/scaling.md). So an emission waits now and then, for otherwise the queue
would grow for as long as the run goes on; but it does not wait for a server that takes nothing at all: events come first.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from resonant.local.compatibility import count_unsent_messages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Messages, of which a task run has three or more: some 20 MB.
MOST_UNSENT = 5_000
# How long the queue may stand still until the server counts as away, and for how long nobody waits for it then.
PATIENCE_SECONDS = 5.0
AWAY_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.05
# Of a task run, with a few retries. A look at Prefect's queue goes by its settings, and is not made where there is room anyway.
_MOST_MESSAGES = 20


class Records:
    """Lets an emission wait for the records of what it did.

    Args:
        unsent: tells how many messages are in the queue.
        clock: seconds, of a clock that nobody puts back.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        unsent: Callable[[], int] = count_unsent_messages,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._unsent = unsent
        self._clock = clock
        self._sleep = sleep
        self._is_away_until = 0.0
        self._fitting = 0

    async def catch_up(self) -> None:
        """Wait until there is room in the queue for a task run's messages, or the server turns out to be away."""
        if self._fitting > 0:
            self._fitting -= 1
            return
        unsent = self._unsent()
        give_up_at = self._clock() + PATIENCE_SECONDS
        while unsent >= MOST_UNSENT and self._clock() >= self._is_away_until:
            if self._clock() >= give_up_at:
                self._is_away_until = self._clock() + AWAY_SECONDS
                return
            await self._sleep(_LOOK_AGAIN_SECONDS)
            left = self._unsent()
            if left < unsent:
                unsent, give_up_at = left, self._clock() + PATIENCE_SECONDS
        self._fitting = max(0, MOST_UNSENT - unsent) // _MOST_MESSAGES


records = Records()
