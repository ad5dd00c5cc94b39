"""A fixed clock for tests."""


class FixedClock:
    """A clock that only ``advance`` moves; calling it returns seconds since the epoch."""

    def __init__(self, start: float) -> None:
        self._now = start

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward; a negative number moves it back, as can happen to real clocks."""
        self._now += seconds
