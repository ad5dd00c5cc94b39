"""Limits the deliveries to an endpoint that a run claims, and begins, ahead of their sends."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from resonant.dispatch.waiting import wait_at_most

if TYPE_CHECKING:
    from collections.abc import Callable

# Beside others, an endpoint that has not finished a delivery in this run gets this many. More would only be released again if
# it turns out to be slow or down. A chunk is larger, since its task run costs as much as ten sends.
FIRST_CLAIM, FIRST_CHUNK = 4, 16
# An endpoint without others gets enough to be busy until its gate knows its first answers, about 30.
FIRST_ALONE = 100
# The size doubles if half of a claim was finished within this time, or if hardly anything was left of it at the next claim.
# It halves if a claim lasts longer than the second time.
_QUICK_SECONDS, _LONG_SECONDS = 0.25, 2.0
_HARDLY_ANY = 1 / 8
# How often a chunk that waits for room checks whether the run has ended.
_LOOK_SECONDS = 0.25


class ClaimSize:
    """The size of an endpoint's claims. It grows until claims last for a while, so that the sends do not wait for them.

    Args:
        first: the size of the first claims, and the smallest size.
    """

    def __init__(self, first: int = FIRST_CLAIM) -> None:
        self._first = first
        self._size = self._last = first
        self._finished = 0
        self._claimed_at = -math.inf

    def is_used_up(self, finished: int, busy: int) -> bool:
        """Return whether to claim more: at most half of the last claim is busy.

        Before a delivery is finished, a quarter: half of the first chunk may be the failures that close the gate.
        """
        return busy <= self._last // (2 if finished else 4)

    def next(
        self, now: float, finished: int, busy: int, *, fair: int, most: int, is_alone: bool, is_behind: bool
    ) -> int:
        """Return how many claimed deliveries the run may have after the next claim.

        Args:
            now: the time, in seconds.
            finished: the deliveries of the endpoint that this run has finished.
            busy: the claimed deliveries that are not finished.
            fair: the size for an endpoint that is like all others.
            most: the largest size.
            is_alone: whether no other endpoint has due deliveries.
            is_behind: whether it has an old backlog; new events wait for what is claimed, so claims must not last long.
        """
        if not finished:
            return min(
                FIRST_ALONE if is_alone else self._first, max(fair, self._first) if is_behind else most
            )
        took = now - self._claimed_at
        has_worked = finished - self._finished >= self._last // 2
        is_empty = busy <= _HARDLY_ANY * self._last and not (is_behind and took > _LONG_SECONDS)
        if has_worked and (took < _QUICK_SECONDS or is_empty):
            self._size = min(most, 2 * self._last)
        elif took > _LONG_SECONDS:
            self._size = max(self._first, self._size // 2)
        return min(most, max(fair, self._size))

    def note_claim(self, now: float, finished: int, size: int) -> None:
        """Note a claim that may bring the claimed deliveries to this size."""
        self._claimed_at, self._finished, self._last = now, finished, size


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
