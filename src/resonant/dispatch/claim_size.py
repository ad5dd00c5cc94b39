"""How many deliveries of an endpoint a run claims ahead of their sends."""

from __future__ import annotations

import math

# Beside others, an endpoint that has not finished a delivery in this run gets this many. More would only be released again if
# it turns out to be slow or down.
FIRST_CLAIM = 4
# The size doubles if half of a claim was finished within the first time, and halves after the second.
_QUICK_SECONDS, _SLOW_SECONDS = 0.25, 1.0


class ClaimSize:
    """The size of an endpoint's claims. It grows while deliveries are finished quickly, so that few claims are needed.

    Attributes:
        refill_at: claim more when at most this many claimed deliveries are busy.
    """

    def __init__(self) -> None:
        self.refill_at = math.inf
        self._size = FIRST_CLAIM
        self._finished = 0
        self._claimed_at = -math.inf

    def next(self, now: float, finished: int, *, fair: int, most: int, is_alone: bool) -> int:
        """Return how many claimed deliveries the run may have after the next claim.

        Args:
            now: the time, in seconds.
            finished: the deliveries of the endpoint that this run has finished.
            fair: the size for an endpoint that is like all others.
            most: the largest size.
            is_alone: whether no other endpoint has due deliveries.
        """
        if not finished and not is_alone:
            return min(FIRST_CLAIM, most)
        took = now - self._claimed_at
        if took > _SLOW_SECONDS:
            self._size = max(FIRST_CLAIM, self._size // 2)
        elif took < _QUICK_SECONDS and finished - self._finished >= self._size // 2:
            self._size = min(most, 2 * self._size)
        return min(most, max(fair, self._size))

    def note_claim(self, now: float, finished: int, size: int) -> None:
        """Note a claim that may bring the claimed deliveries to this size."""
        self._claimed_at, self._finished = now, finished
        self.refill_at = size // 2
