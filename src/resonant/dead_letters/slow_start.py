"""The rate of a replay, which starts slowly."""

# The rate begins at a tenth and grows linearly for this long, to protect a recovering receiver.
SLOW_START_SECONDS = 10.0
_SLOW_START_SHARE = 0.1
# After a delay, the process catches up gradually: after a short burst, at this much above the rate.
_BURST_SECONDS = 0.05
_CATCH_UP_SHARE = 0.08
_REMEMBERED_SECONDS = 10.0


class SlowStart:
    """Limits the rate of a replay with two token buckets that fill slowly at first.

    A large one keeps the average rate, and a small one that fills faster limits what is sent in any second.

    Args:
        rate: dead letters per second, after the slow start.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        # Includes the refill of one pause; otherwise a punctual caller would lose fractions of a token.
        self._burst = max(1.0, rate * _BURST_SECONDS) + rate * self.pause()
        self._most_owed = max(self._burst, rate * _REMEMBERED_SECONDS)
        self._owed = 0.0
        self._tokens = 0.0
        self._filled_to = 0.0

    def take(self, elapsed: float) -> int:
        """Return how many dead letters may be sent now, and count them as sent.

        Args:
            elapsed: seconds since the start; never less than in the previous call.
        """
        new = self._allowed(elapsed) - self._allowed(self._filled_to)
        self._filled_to = elapsed
        self._owed = min(self._most_owed, self._owed + new)
        self._tokens = min(self._burst, self._tokens + (1 + _CATCH_UP_SHARE) * new)
        whole = int(min(self._owed, self._tokens))
        self._owed -= whole
        self._tokens -= whole
        return whole

    def pause(self) -> float:
        """Return the seconds to wait before the next call of ``take``."""
        return max(0.005, min(_BURST_SECONDS / 4, 1 / self._rate))

    def _allowed(self, elapsed: float) -> float:
        """Return the integral of the rate from 0. The rate grows from a tenth to the full rate, then stays constant."""
        ramp = min(elapsed, SLOW_START_SECONDS)
        grown = (1 - _SLOW_START_SHARE) * ramp * ramp / (2 * SLOW_START_SECONDS)
        return self._rate * (_SLOW_START_SHARE * ramp + grown + elapsed - ramp)
