"""How many deliveries of an endpoint a run claims ahead of their sends."""

from __future__ import annotations

import math

# Beside others, an endpoint that has not finished a delivery in this run gets this many. More would only be released again if
# it turns out to be slow or down. A chunk is larger, since its task run costs as much as ten sends.
FIRST_CLAIM, FIRST_CHUNK = 4, 16
# The size doubles if half of a claim was finished within this time, or if hardly anything was left of it at the next claim.
# It halves if a claim lasts longer than the second time.
_QUICK_SECONDS, _LONG_SECONDS = 0.25, 2.0
_HARDLY_ANY = 1 / 8


class ClaimSize:
    """The size of an endpoint's claims. It grows until claims last for a while, so that the sends do not wait for them.

    Args:
        first: the size of the first claims, and the smallest size.

    Attributes:
        refill_at: claim more when at most this many claimed deliveries are busy.
    """

    def __init__(self, first: int = FIRST_CLAIM) -> None:
        self.refill_at = math.inf
        self._first = first
        self._size = self._last = first
        self._finished = 0
        self._claimed_at = -math.inf

    def next(self, now: float, finished: int, busy: int, *, fair: int, most: int, is_alone: bool) -> int:
        """Return how many claimed deliveries the run may have after the next claim.

        Args:
            now: the time, in seconds.
            finished: the deliveries of the endpoint that this run has finished.
            busy: the claimed deliveries that are not finished.
            fair: the size for an endpoint that is like all others.
            most: the largest size.
            is_alone: whether no other endpoint has due deliveries.
        """
        if not finished and not is_alone:
            return min(self._first, most)
        took = now - self._claimed_at
        has_worked = finished - self._finished >= self._last // 2
        if has_worked and (took < _QUICK_SECONDS or busy <= _HARDLY_ANY * self._last):
            self._size = min(most, 2 * self._last)
        elif took > _LONG_SECONDS:
            self._size = max(self._first, self._size // 2)
        return min(most, max(fair, self._size))

    def note_claim(self, now: float, finished: int, size: int) -> None:
        """Note a claim that may bring the claimed deliveries to this size."""
        self._claimed_at, self._finished, self._last = now, finished, size
        self.refill_at = size // 2
