"""The rate limit of an endpoint, shared by all processes: each send waits for its own slot.

Slots are evenly spaced times, reserved in the store (see ``store/shared/send_slots.py``). A missed slot is lost, so that sends
never bunch.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from resonant.store.engine.availability import is_lock, retry_while_unavailable
from resonant.store.shared.send_slots import MOST_NOTICE_SECONDS, Reservation, reserve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resonant.errors import StoreUnavailable
    from resonant.events import Clock
    from resonant.store import WorkerStore

# The share of the rate that is used. Evenly spaced sends do not arrive evenly spaced: at the full rate, a receiver would
# sometimes see a few more requests in a second.
USED_SHARE = 0.98
# How late a slot may be used. With `USED_SHARE`, the sends in any second stay within the rate; at high rates, they exceed it
# by at most 3 %.
MOST_LATE_SECONDS = 0.02
_MOST_LATE_AT_HIGH_RATES_SECONDS = 0.05
_HIGH_RATE = 100.0
# How long before its slot a send may begin in the store; a crash charges an attempt to each begun send.
_LEAD_SECONDS = 0.25
# A run claims the sends of at most this many seconds, and leaves the rest to other processes.
_CLAIMED_SECONDS = 2.0
# How often a limiter checks for waiting sends and for the end of the run.
_TICK_SECONDS = 0.01
# The notice of the first reservation. Later notices depend on the duration of the last reservation.
_FIRST_NOTICE_SECONDS = 0.05


_Turn = asyncio.Future[float | None]


class Reserve(Protocol):
    """Reserves slots in the store."""

    def __call__(self, endpoint: str, *, rate: float, number: int, notice: float) -> Awaitable[Reservation]:
        """See ``send_slots.reserve``."""


def reserving(
    store: WorkerStore, patience: float, outlasts: Callable[[StoreUnavailable], bool] = is_lock
) -> Reserve:
    """Return a function that reserves slots in this store. It waits out an outage like ``retry_while_unavailable``."""

    async def reserve_in_store(endpoint: str, *, rate: float, number: int, notice: float) -> Reservation:
        return await retry_while_unavailable(
            lambda: store.write(
                reserve, endpoint, rate=rate, number=number, notice=notice, clock=store.clock
            ),
            patience,
            outlasts=outlasts,
        )

    return reserve_in_store


class RateLimiter:
    """Assigns slots to the sends of one process, per endpoint in order of arrival.

    A send takes a slot a little ahead, begins in the store, and then waits for the slot's time::

        slot = await limiter.take(endpoint)
        try:
            ...
            if await limiter.wait(endpoint, slot):
                ...  # send now
        finally:
            limiter.free(endpoint, slot)

    Args:
        reserve: reserves slots, shared by all processes.
        is_over: returns whether the run is over; waiting sends then get no slot.
        wall: the wall-clock time, in seconds since the epoch.
        clock: the monotonic time, in seconds.
        sleep: waits for a number of seconds, as measured by ``clock``.
    """

    def __init__(
        self,
        reserve: Reserve,
        *,
        is_over: Callable[[], bool] = lambda: False,
        wall: Clock = time.time,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._tools = _Tools(reserve, is_over, wall, clock, sleep)
        self._lines: dict[str, _Line] = {}

    def limit(self, endpoint: str, rate: float | None, *, width: int) -> None:
        """Set an endpoint's rate; None sets no limit.

        Args:
            endpoint: the endpoint's name.
            rate: sends per second, summed over all processes.
            width: the maximum number of concurrent sends; at most half of them wait for their slot's time.
        """
        if rate is not None:
            lead = min(_LEAD_SECONDS, width / 2 / rate)
            self._lines[endpoint] = _Line(endpoint, USED_SHARE * rate, lead, width, self._tools)

    def limits(self, endpoint: str) -> bool:
        """Return whether an endpoint has a rate."""
        return endpoint in self._lines

    def most_claimed(self, endpoint: str) -> int | None:
        """Return how many deliveries of an endpoint a run may hold; None if the endpoint has no rate."""
        line = self._lines.get(endpoint)
        return None if line is None else max(1, math.ceil(_CLAIMED_SECONDS * line.rate))

    async def take(self, endpoint: str) -> float | None:
        """Wait until a slot is near, and return its time; None without a rate, or if the run ends.

        At most ``width`` slots are in use at a time; ``free`` makes room for the next.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        line = self._lines.get(endpoint)
        return None if line is None else await line.next()

    async def wait(self, endpoint: str, slot: float | None) -> bool:
        """Wait for a slot's time. If it was missed, wait for another slot.

        Returns:
            Whether to send now; false if the run ends first.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        line = self._lines.get(endpoint)
        if line is None:
            return True
        while True:
            if slot is not None:
                await self._tools.sleep(max(0.0, slot - self._tools.clock()))
                if self._tools.clock() <= slot + line.most_late:
                    return True
            if (slot := await line.next_again()) is None:
                return False

    def free(self, endpoint: str, slot: float | None) -> None:
        """Free a slot from ``take`` after its send."""
        if slot is not None:
            self._lines[endpoint].sending -= 1

    async def close(self) -> None:
        """Stop assigning slots."""
        for line in self._lines.values():
            await line.close()


@dataclass(frozen=True, slots=True)
class _Tools:
    reserve: Reserve
    is_over: Callable[[], bool]
    wall: Clock
    clock: Clock
    sleep: Callable[[float], Awaitable[object]]


class _Line:
    """The waiting sends and the reserved slots of one endpoint."""

    def __init__(self, endpoint: str, rate: float, lead: float, width: int, tools: _Tools) -> None:
        self.rate = rate
        self.most_late = _MOST_LATE_AT_HIGH_RATES_SECONDS if rate > _HIGH_RATE else MOST_LATE_SECONDS
        self.sending = 0
        self._endpoint = endpoint
        self._lead = lead
        self._width = width
        self._tools = tools
        # Sends that missed their slot come first.
        self._again: deque[_Turn] = deque()
        self._waiting: deque[_Turn] = deque()
        self._slots: deque[float] = deque()
        self._ask_at = -math.inf
        self._notice = _FIRST_NOTICE_SECONDS
        # The store's clock minus `clock`. The initial value assumes that the store's clock shows the wall-clock time.
        self._offset = tools.wall() - tools.clock()
        self._serving: asyncio.Task[None] | None = None

    async def next(self) -> float | None:
        """Wait for a slot; None if the run ends."""
        turn = self._queue_up(self._waiting)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is not None:
                self.sending -= 1
            raise

    async def next_again(self) -> float | None:
        """Wait for another slot after a missed one; None if the run ends."""
        return await self._queue_up(self._again)

    def _queue_up(self, queue: deque[_Turn]) -> _Turn:
        turn: _Turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return turn

    async def close(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])

    async def _serve(self) -> None:
        """Hand out slots while sends wait."""
        try:
            while self._forget_cancelled() and not self._tools.is_over():
                if self._wanted() > 0 and self._tools.clock() >= self._ask_at:
                    await self._ask()
                self._hand_out()
                await self._tools.sleep(self._until_next())
            self._send_away(lambda turn: turn.set_result(None))
        except asyncio.CancelledError:
            self._send_away(lambda turn: turn.cancel())
            raise
        except Exception as error:  # noqa: BLE001 - the waiting sends raise it
            failure = error
            self._send_away(lambda turn: turn.set_exception(failure))

    def _forget_cancelled(self) -> int:
        """Drop cancelled sends; return how many still wait."""
        for queue in (self._again, self._waiting):
            while queue and queue[0].done():
                queue.popleft()
        return len(self._again) + len(self._waiting)

    def _send_away(self, end: Callable[[_Turn], object]) -> None:
        for queue in (self._again, self._waiting):
            for turn in queue:
                if not turn.done():
                    end(turn)
            queue.clear()

    def _wanted(self) -> int:
        return len(self._again) + len(self._waiting) - len(self._slots)

    def _hand_out(self) -> None:
        """Assign near slots to the sends that have waited longest, and drop missed slots."""
        now = self._tools.clock()
        while self._slots and self._slots[0] + self.most_late < now:
            self._slots.popleft()
        while self._slots and self._slots[0] - self._lead <= now and (turn := self._next_turn()) is not None:
            turn.set_result(self._slots.popleft())

    def _next_turn(self) -> _Turn | None:
        self._forget_cancelled()
        if self._again:
            return self._again.popleft()
        if self._waiting and self.sending < self._width:
            self.sending += 1
            return self._waiting.popleft()
        return None

    def _until_next(self) -> float:
        is_room = self._again or self.sending < self._width
        if not (self._slots and is_room):
            return _TICK_SECONDS
        return max(0.0, min(_TICK_SECONDS, self._slots[0] - self._lead - self._tools.clock()))

    async def _ask(self) -> None:
        before = self._tools.clock()
        given = await self._tools.reserve(
            self._endpoint, rate=self.rate, number=self._wanted(), notice=self._notice
        )
        after = self._tools.clock()
        self._notice = min(MOST_NOTICE_SECONDS, _FIRST_NOTICE_SECONDS + 2 * (after - before))
        # The store read its clock between `before` and `after`. That clock may drift or jump.
        self._offset = min(max(self._offset, given.now - after), given.now - before)
        first = given.first - self._offset
        if given.number:
            self._slots.extend(first + number / self.rate for number in range(given.number))
        else:
            self._ask_at = first
