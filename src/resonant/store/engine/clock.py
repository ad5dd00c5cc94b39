"""The store's clock, which all its processes share: PostgreSQL's, or on SQLite the host's. Times are seconds since the epoch."""

import logging
import math
import time
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, select

from resonant.events import Clock
from resonant.store.engine.sql import SharedClock

logger = logging.getLogger(__name__)

# The clocks of a machine and of the store differ by more only if one of them is not synchronized.
MOST_APART_SECONDS = 5.0
# How old a comparison may be. Drains compare the clocks with each look.
_OLD_SECONDS = 60.0
# The clocks of producers' engines. Reading the server's clock in each transaction would cost a round trip.
_of_engines: WeakKeyDictionary[Engine, "StoreClock"] = WeakKeyDictionary()


class StoreClock:
    """Returns the store's time: that of the process, corrected by the difference that the last comparison has found.

    Args:
        process: the clock of this process.
        is_right: whether the clock is exact and never compared, such as a test's clock.

    Attributes:
        ahead: how far the store's clock is ahead of that of the process, in seconds.
    """

    def __init__(self, process: Clock, *, is_right: bool = False) -> None:
        self.process = process
        self._is_right = is_right
        self.ahead = 0.0
        self._compared_at = -math.inf
        self._is_noted = False

    def __call__(self) -> float:
        """Return the store's time."""
        return self.process() + self.ahead

    def compare_if_old(self, connection: Connection) -> None:
        """Compare the clocks again after a minute, or if that of the process was set."""
        if abs(self.process() - self._compared_at) > _OLD_SECONDS:
            self.compare_now(connection)

    def compare_now(self, connection: Connection) -> None:
        """Compare the clocks, which takes a round trip."""
        if not self._is_right:
            began_at = self.process()
            self.compare(connection.execute(select(SharedClock())).scalar_one(), began_at)

    def compare(self, at: float, began_at: float) -> None:
        """Note the difference.

        Args:
            at: the store's time.
            began_at: the time of the process shortly before; the store's was read between then and now.
        """
        if self._is_right:
            return
        self._compared_at = self.process()
        # Keep the last difference while it lies within the bounds of this comparison.
        self.ahead = min(max(self.ahead, at - self._compared_at), at - began_at)
        is_apart = abs(self.ahead) > MOST_APART_SECONDS
        if is_apart and not self._is_noted:
            logger.warning("%s", describe_difference(self.ahead))
        self._is_noted = is_apart


def describe_difference(ahead: float) -> str:
    """Describe a difference of the clocks, in seconds, on one line."""
    direction = "behind" if ahead > 0 else "ahead of"
    return (
        f"the clock of this machine is {abs(ahead):.0f} s {direction} that of the store: synchronize them (NTP); "
        "Resonant uses the store's"
    )


def read_clock(connection: Connection) -> float:
    """Return the store's time, on a connection that may be a producer's own."""
    if connection.dialect.name != "postgresql":
        return time.time()
    clock = _of_engines.setdefault(connection.engine, StoreClock(time.time))
    clock.compare_if_old(connection)
    return clock()
