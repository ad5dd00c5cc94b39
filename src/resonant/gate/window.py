"""Measurements of a gate: the share of bad answers, the accepted answers per second, and slow answers."""

from __future__ import annotations

from collections import deque
from statistics import median

# An answer counts for a second; at low rates, the last few count for longer.
WINDOW_SECONDS = 1.0
FEWEST_ANSWERS = 20
_FEWEST_ACCEPTED = 5
# The slow answers in a row that make an endpoint slow, if they came over a second; and the first answers, which set the usual
# duration.
_SLOW_IN_A_ROW = 5
_SLOW_SECONDS = 1.0
_FIRST_ANSWERS = 5


class Window:
    """The answers of the last second, or the last 20 if that is more; older ones are only counted."""

    def __init__(self) -> None:
        self._answers: deque[tuple[float, bool]] = deque()
        self._bad = 0
        self.earlier = 0
        self.earlier_bad = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def bad(self) -> int:
        """The number of bad answers."""
        return self._bad

    @property
    def share_bad(self) -> float:
        """The share of bad answers; 0 without answers."""
        return self._bad / len(self._answers) if self._answers else 0.0

    def add(self, now: float, *, is_bad: bool) -> None:
        """Add an answer."""
        self._answers.append((now, is_bad))
        self._bad += is_bad
        while len(self._answers) > FEWEST_ANSWERS and self._answers[0][0] < now - WINDOW_SECONDS:
            _, was_bad = self._answers.popleft()
            self._bad -= was_bad
            self.earlier += 1
            self.earlier_bad += was_bad


class Accepted:
    """The rate of accepted answers."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def add(self, now: float) -> None:
        """Count an accepted answer."""
        self._times.append(now)
        self._drop(now)

    def last(self) -> float | None:
        """Return the time of the last accepted answer; None without one."""
        return self._times[-1] if self._times else None

    def per_second(self, now: float) -> float:
        """Return the rate over the last second, or over the last five answers if that is longer."""
        self._drop(now)
        if not self._times:
            return 0.0
        return len(self._times) / max(WINDOW_SECONDS, now - self._times[0])

    def _drop(self, now: float) -> None:
        times = self._times
        while len(times) > _FEWEST_ACCEPTED and times[0] < now - WINDOW_SECONDS:
            times.popleft()


class Latency:
    """Compares the durations of accepted answers with those of the first few, when the endpoint was idle."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._limit = float("inf")
        self._slow, self._slow_since, self._slow_at = 0, 0.0, 0.0
        self.usual = 0.0

    def add(self, now: float, duration: float) -> None:
        """Add the duration of an accepted answer."""
        if len(self._first) < _FIRST_ANSWERS:
            self._first.append(duration)
            self.usual = median(self._first)
            if len(self._first) == _FIRST_ANSWERS:
                self._limit = 3 * self.usual + 0.1
            return
        if duration <= self._limit:
            self._slow = 0
            return
        if not self._slow:
            self._slow_since = now
        self._slow, self._slow_at = self._slow + 1, now

    @property
    def may_be_slow(self) -> bool:
        """Whether at least the last five answers were slow."""
        return self._slow >= _SLOW_IN_A_ROW

    @property
    def is_slow(self) -> bool:
        """Whether at least the last five answers, and all of the last second, were slow."""
        return self.may_be_slow and self._slow_at - self._slow_since >= _SLOW_SECONDS

    def forgive(self) -> None:
        """Reset the count of slow answers."""
        self._slow = 0
