"""The rate of a replay, which starts slowly."""

from __future__ import annotations

# The rate begins at a tenth and grows linearly for this long, to protect a recovering receiver.
SLOW_START_SECONDS = 10.0
_SLOW_START_SHARE = 0.1
# One burst makes up for at most this much delay of the process, in seconds; the rest is lost, since a rate is a limit.
_BURST_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 0.0125


class SlowStart:
    """Limits the rate of a replay: a token bucket that fills slowly at first.

    Args:
        rate: dead letters per second, after the slow start.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        # Includes the refill of one pause; otherwise a punctual caller would lose fractions of a token.
        self._burst = max(1.0, rate * _BURST_SECONDS) + rate * self.pause()
        self._tokens = 0.0
        self._filled_to = 0.0

    def take(self, elapsed: float) -> int:
        """Return how many dead letters may be sent now, and count them as sent.

        Args:
            elapsed: seconds since the start; never less than in the previous call.
        """
        new = self._allowed(elapsed) - self._allowed(self._filled_to)
        self._filled_to = elapsed
        tokens = min(self._burst, self._tokens + new)
        self._tokens = tokens % 1
        return int(tokens)

    def pause(self) -> float:
        """Return the seconds to wait before the next call of ``take``."""
        return max(0.005, min(_LONGEST_PAUSE_SECONDS, 1 / self._rate))

    def _allowed(self, elapsed: float) -> float:
        """Return the integral of the rate from 0. The rate grows from a tenth to the full rate, then stays constant."""
        ramp = min(elapsed, SLOW_START_SECONDS)
        grown = (1 - _SLOW_START_SHARE) * ramp * ramp / (2 * SLOW_START_SECONDS)
        return self._rate * (_SLOW_START_SHARE * ramp + grown + elapsed - ramp)
