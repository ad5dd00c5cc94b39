"""Lowers an endpoint's limit of concurrent sends while its answers take longer than usual.

Netflix's ``Gradient2Limit`` repeatedly multiplies its limit by the ratio of the long-term to the short-term latency.
Uber's Cinnamon also corrects its target: more concurrent sends raise the latency, which raises the target, which permits
more. Here, the limit is the configured one times that ratio, so it never exceeds the configured one.
"""

import math

# The limit falls when latency is above this multiple of its level, and a level below the second number counts as that number,
# in seconds: shorter delays are often our own.
_TOLERANCE = 2.0
_LOWEST_LEVEL_SECONDS = 0.05
# The weight of the last answer in the recent latency, and the time in which the level follows it.
_WEIGHT = 1 / 8
_LEVEL_SECONDS = 60.0
# The limit stays at this number at least, so that it notices faster answers.
_LEAST = 4


class LatencyLimit:
    """The number of concurrent sends that an endpoint may have, given its latency.

    Args:
        most: the configured limit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._recent = self._level = 0.0
        self._answers = 0
        self._answered_at = -math.inf

    def note_answer(self, seconds: float, now: float, *, has_failed: bool) -> None:
        """Take the duration of a send into account. A failure counts only if it took long."""
        if has_failed and seconds <= self._recent:
            return
        self._answers += 1
        passed, self._answered_at = (now - self._answered_at) / _LEVEL_SECONDS, now
        # The mean of the first answers, then moving averages: one over answers, one over time.
        of_mean = 1 / self._answers
        self._recent += max(of_mean, _WEIGHT) * (seconds - self._recent)
        self._level += max(of_mean, min(passed, _WEIGHT)) * (seconds - self._level)

    def limit(self, waited: float) -> int:
        """Return the limit.

        Args:
            waited: how long half of the sends without an answer have waited, in seconds.
        """
        latency = max(self._recent, waited)
        usual = _TOLERANCE * max(self._level, _LOWEST_LEVEL_SECONDS)
        if not self._answers or latency <= usual:
            return self._most
        return min(self._most, max(_LEAST, math.ceil(self._most * usual / latency)))
