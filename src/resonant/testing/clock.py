"""A clock that stands still."""


class FixedClock:
    """A clock that stands still until it is told to move; calling it returns seconds since the epoch."""

    def __init__(self, start: float) -> None:
        self._now = start

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on (or back, as real ones do, with a negative number of seconds)."""
        self._now += seconds
