"""The limit of deliveries that begin ahead of their sends, so that the sends of a chunk do not wait for the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resonant.dispatch.waiting import wait_at_most

if TYPE_CHECKING:
    from collections.abc import Callable

# How often a task that waits for room checks whether the run has ended.
_LOOK_SECONDS = 0.25


class PrefetchWindow:
    """Limits the deliveries to one endpoint that have begun but are not sent yet. A crash charges each an attempt.

    When at most ``width`` deliveries wait to be sent, the next ``2 * width`` begin in one commit, so that commits are
    large. So at most ``MOST_BEGUN * width`` have begun, including those being sent.

    Args:
        width: the maximum number of concurrent sends, at least 1.

    Attributes:
        at_once: how many deliveries begin in one commit.
        turn: held by the chunk whose deliveries begin.
    """

    _AT_ONCE = 2
    # Being sent, waiting, and begun in one commit on top of these.
    MOST_BEGUN = 1 + 1 + _AT_ONCE

    def __init__(self, width: int) -> None:
        self.width = width
        self.at_once = self._AT_ONCE * width
        self.turn = asyncio.Lock()
        self._number = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def wait_for_room(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Wait until more deliveries may begin, or the run ends."""
        while not self._has_room.is_set() and not is_over():
            await wait_at_most(_LOOK_SECONDS, self._has_room)

    def change(self, by: int) -> None:
        """Change the number of deliveries that have begun but are not on the wire yet."""
        self._number += by
        if self._number <= self.width:
            self._has_room.set()
        else:
            self._has_room.clear()
