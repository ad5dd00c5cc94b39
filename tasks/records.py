"""Prefect's records of task runs: its client queues them without a bound, and sends them as fast as the server accepts them.

The server accepts fewer than a quick emission makes (docs/scaling.md). So an emission waits now and then; otherwise the queue
would grow during the whole run. It does not wait for a server that accepts nothing at all: events come first.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from resonant.local.compatibility import count_unsent_messages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# The longest queue, in messages: some 20 MB. A task run has three or more messages.
MOST_UNSENT = 5_000
# If the queue has not shrunk for PATIENCE_SECONDS, the server counts as away, and nothing waits for AWAY_SECONDS.
PATIENCE_SECONDS = 5.0
AWAY_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.05
# A task run's messages, with a few retries. While there is surely room for them, Prefect's queue is not counted.
_MOST_MESSAGES = 20


class Records:
    """Lets an emission wait until Prefect's client has sent its records.

    Args:
        unsent: returns the number of messages in the queue.
        clock: a monotonic clock, in seconds.
        sleep: waits for a number of seconds.
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
        """Wait until the queue has room for a task run's messages, or the server counts as away."""
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
