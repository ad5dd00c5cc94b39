"""The rate limit of an endpoint, shared by all processes: each send waits for its own slot.

Slots are evenly spaced times, reserved in the store (see ``store/shared/send_slots.py``). A missed slot is lost, so that sends
never bunch.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from resonant.store.shared.send_slots import AHEAD_SECONDS, MOST_NOTICE_SECONDS, Reservation

if TYPE_CHECKING:
    from resonant.events import Clock

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
# A limiter that wants more slots than it got asks again this much later than the others. So processes take turns, and a replay
# does not take most slots.
_TURN_SECONDS = 3 * _TICK_SECONDS
# The notice of the first reservation. Later notices depend on the duration of the last reservation.
_FIRST_NOTICE_SECONDS = 0.05

_Turn = asyncio.Future[float | None]

# Reserves slots in the store, and waits out an outage; see ``send_slots.reserve`` for the arguments.
Reserve = Callable[..., Awaitable[Reservation]]


def _now() -> float:
    return asyncio.get_running_loop().time()


class NoRate:
    """The rate of an endpoint without a limit: every send goes out at once."""

    is_limited = False
    most_claimed = math.inf

    async def take(self) -> None:
        """Return at once, without a slot."""

    async def wait(self, _slot: float | None) -> bool:
        """Return that the send may go out now."""
        return True

    def free(self, _slot: float | None) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""


class Rate:
    """Assigns slots to the sends of one endpoint in one process, in order of arrival.

    A send takes a slot a little ahead, begins in the store, and then waits for the slot's time::

        slot = await rate.take()
        try:
            ...
            if await rate.wait(slot):
                ...  # send now
        finally:
            rate.free(slot)

    Args:
        endpoint: the endpoint's name.
        rate: sends per second, summed over all processes.
        width: the maximum number of concurrent sends; at most half of them wait for their slot's time.
        reserve: reserves slots, shared by all processes.
        clock: the store's clock, as far as this process knows it.
        is_over: returns whether the run is over; waiting sends then get no slot.
    """

    is_limited = True

    def __init__(
        self,
        endpoint: str,
        rate: float,
        width: int,
        reserve: Reserve,
        *,
        clock: Clock,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rate = USED_SHARE * rate
        self._width = width
        self._reserve = partial(reserve, endpoint, rate=self._rate)
        self._is_over = is_over
        self._sending = 0
        # Sends that missed their slot come first.
        self._again: deque[_Turn] = deque()
        self._waiting: deque[_Turn] = deque()
        self._slots: deque[float] = deque()
        self._ask_at = -math.inf
        self._notice = _FIRST_NOTICE_SECONDS
        # The store's clock minus that of the event loop.
        self._offset = clock() - _now()
        self._serving: asyncio.Task[None] | None = None

    @property
    def _lead(self) -> float:
        return min(_LEAD_SECONDS, self._width / 2 / self._rate * USED_SHARE)

    @property
    def _most_late(self) -> float:
        return _MOST_LATE_AT_HIGH_RATES_SECONDS if self._rate > _HIGH_RATE else MOST_LATE_SECONDS

    @property
    def most_claimed(self) -> int:
        """How many deliveries of the endpoint a run may hold."""
        return max(1, math.ceil(_CLAIMED_SECONDS * self._rate))

    async def take(self) -> float | None:
        """Wait until a slot is near, and return its time; None if the run ends.

        At most ``width`` slots are in use at a time; ``free`` makes room for the next.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        turn = self._queue_up(self._waiting)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is not None:
                self._sending -= 1
            raise

    async def wait(self, slot: float | None) -> bool:
        """Wait for a slot's time. If it was missed, wait for another slot.

        Returns:
            Whether to send now; false if the run ends first.

        Raises:
            StoreUnavailable: the store did not recover in time.
        """
        while True:
            if slot is not None:
                await asyncio.sleep(max(0.0, slot - _now()))
                if _now() <= slot + self._most_late:
                    return True
            if (slot := await self._queue_up(self._again)) is None:
                return False

    def free(self, slot: float | None) -> None:
        """Free a slot from ``take`` after its send."""
        if slot is not None:
            self._sending -= 1

    async def close(self) -> None:
        """Stop assigning slots."""
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])

    def _queue_up(self, queue: deque[_Turn]) -> _Turn:
        turn: _Turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return turn

    async def _serve(self) -> None:
        """Hand out slots while sends wait."""
        try:
            while self._forget_cancelled() and not self._is_over():
                if self._wanted() > 0 and _now() >= self._ask_at:
                    await self._ask()
                self._hand_out()
                await asyncio.sleep(self._until_next())
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
        now = _now()
        while self._slots and self._slots[0] + self._most_late < now:
            self._slots.popleft()
        while self._slots and self._slots[0] - self._lead <= now and (turn := self._next_turn()) is not None:
            turn.set_result(self._slots.popleft())

    def _next_turn(self) -> _Turn | None:
        self._forget_cancelled()
        if self._again:
            return self._again.popleft()
        if self._waiting and self._sending < self._width:
            self._sending += 1
            return self._waiting.popleft()
        return None

    def _until_next(self) -> float:
        is_room = self._again or self._sending < self._width
        if not (self._slots and is_room):
            return _TICK_SECONDS
        return max(0.0, min(_TICK_SECONDS, self._slots[0] - self._lead - _now()))

    async def _ask(self) -> None:
        before = _now()
        given = await self._reserve(number=self._wanted(), notice=self._notice)
        after = _now()
        self._notice = min(MOST_NOTICE_SECONDS, _FIRST_NOTICE_SECONDS + 2 * (after - before))
        # The store read its clock between `before` and `after`. That clock may drift or jump.
        self._offset = min(max(self._offset, given.now - after), given.now - before)
        first = given.first - self._offset
        if given.number:
            self._slots.extend(first + number / self._rate for number in range(given.number))
            if self._wanted() > 0:
                self._ask_at = first + given.number / self._rate - AHEAD_SECONDS + _TURN_SECONDS
        else:
            self._ask_at = first
