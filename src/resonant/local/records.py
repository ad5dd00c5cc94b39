"""Limits the queue of task-run records in Prefect's client, which has no limit of its own.

A fast emission makes records faster than the server accepts them (docs/scaling.md), so the queue would grow during the
whole run. Therefore an emission waits while the queue is full. It does not wait for a server that accepts no record at
all: deliveries have priority.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from resonant.local.compatibility import count_unsent_messages

# Maximum length of the queue in messages, about 20 MB. A task run has three or more messages.
MOST_UNSENT = 5_000
# If the queue has not shrunk for PATIENCE_SECONDS, the server counts as unavailable, and no emission waits during the
# next AWAY_SECONDS.
PATIENCE_SECONDS = 5.0
AWAY_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.05
# The messages of a task run with a few retries. Task runs that are sure to fit start without counting the queue again.
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
        """Wait until the queue has room for a task run's messages, or the server counts as unavailable."""
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
