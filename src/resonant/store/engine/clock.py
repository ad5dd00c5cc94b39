"""The store's clock, which all processes share: PostgreSQL's, or on SQLite the host's. Times are seconds since the epoch."""

import logging
import math
import sys
import time
from functools import partial
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, select

from resonant.events import Clock
from resonant.store.engine.sql import SharedClock

logger = logging.getLogger(__name__)

# If a machine's clock differs from the store's by more, one of them is not synchronized.
MOST_APART_SECONDS = 5.0
# The age after which a comparison is repeated. Drains compare the clocks in each look.
SECONDS_BETWEEN_COMPARISONS = 60.0
_COMPARED = "resonant_compared"
# One clock for each engine of a producer: reading the server's clock in each transaction would cost a round trip.
_of_engines: WeakKeyDictionary[Engine, "StoreClock"] = WeakKeyDictionary()


def steady_clock() -> Clock:
    """Return a monotonic clock in seconds that also runs while the machine sleeps."""
    if sys.platform == "linux":
        return partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    return time.monotonic


class StoreClock:
    """Returns the store's time: the time of the last comparison, advanced by a monotonic clock.

    So changes of the machine's clock have no effect.

    Args:
        process: the clock of this process, which gives the time until the first comparison.
        steady: see ``steady_clock``.
        is_unused: whether the store has another clock, such as a test's; then nothing is compared.

    Attributes:
        ahead: how far the store's clock was ahead of that of the process at the last comparison, in seconds.
    """

    def __init__(self, process: Clock, steady: Clock, *, is_unused: bool = False) -> None:
        self._process = process
        self.steady = steady
        self._is_unused = is_unused
        self.ahead = 0.0
        self._offset = process() - steady()
        self._compared_at = -math.inf
        self._is_noted = False

    def __call__(self) -> float:
        """Return the store's time."""
        return self.steady() + self._offset

    def compare_if_old(self, connection: Connection) -> None:
        """Compare the clocks after a minute, if the machine's clock was changed or stood still, and on a new connection.

        A new connection may be to another server.
        """
        was_set = abs(self() - self.ahead - self._process()) > MOST_APART_SECONDS
        is_new = connection.info.get(_COMPARED) is not self
        if is_new or was_set or self.steady() - self._compared_at > SECONDS_BETWEEN_COMPARISONS:
            self.compare_now(connection)
            connection.info[_COMPARED] = self  # not another clock for the same pool

    def compare_now(self, connection: Connection) -> None:
        """Compare the clocks, in one round trip."""
        if not self._is_unused:
            began_at = self.steady()
            self.compare(connection.execute(select(SharedClock())).scalar_one(), began_at)

    def compare(self, at: float, began_at: float) -> None:
        """Note the difference.

        Args:
            at: the store's time.
            began_at: the steady time before the store's clock was read.
        """
        if self._is_unused:
            return
        self._compared_at = self.steady()
        # Keep the last difference while it lies within the bounds of this comparison.
        self._offset = min(max(self._offset, at - self._compared_at), at - began_at)
        self.ahead = self() - self._process()
        is_apart = abs(self.ahead) > MOST_APART_SECONDS
        if is_apart and not self._is_noted:
            logger.warning("%s", describe_difference(self.ahead))
        self._is_noted = is_apart


def describe_difference(ahead: float) -> str:
    """Describe a difference of the clocks on one line."""
    direction = "behind" if ahead > 0 else "ahead of"
    return (
        f"the clock of this machine is {abs(ahead):.0f} s {direction} that of the store: synchronize them (NTP); "
        "Resonant uses the store's"
    )


def read_clock(connection: Connection) -> float:
    """Return the store's time, on a connection that may be a producer's own."""
    if connection.dialect.name != "postgresql":
        return time.time()
    clock = _of_engines.setdefault(connection.engine, StoreClock(time.time, steady_clock()))
    clock.compare_if_old(connection)
    return clock()
