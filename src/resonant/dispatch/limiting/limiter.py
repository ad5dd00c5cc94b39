"""Limits on concurrent sends, in total and per endpoint, shared fairly."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from resonant.dispatch.limiting.latency import LatencyLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resonant.events import Clock

# A send is short if it holds its slot for at most this many seconds.
SHORT_SECONDS = 0.5
# The weight of the last send in an endpoint's running average.
_WEIGHT = 1 / 8
# How often the ages of sends without an answer are compared with `SHORT_SECONDS`.
_AGES_SECONDS = 0.1
# The share of slots that only probes use. With fewer than ten slots, probes use the ordinary ones.
_PROBES_SHARE = 0.1
# The share of the slots for slow endpoints that only the first sends to endpoints use.
_NEW_SHARE = 0.125


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


class EndpointSlots:
    """The slots of one endpoint: those in use, and the sends that wait for one.

    Attributes:
        limit: the maximum number of slots, if its sends are short and no other endpoint needs any.
        allowed: the present maximum, lower than ``limit`` while its answers take longer than usual.
        is_short: whether its sends are short.
    """

    def __init__(self, limit: int) -> None:
        self.limit = self.allowed = limit
        self.latency = LatencyLimit(limit)
        self.is_short = False
        self.used = 0
        # The time at which the send of each slot in use began, the oldest first; infinite before.
        self.since: dict[Slot, float] = {}
        self.waiting: deque[asyncio.Future[None]] = deque()
        # The average duration of its sends; None before the first answer.
        self.average: float | None = None
        # The order in which endpoints were served last.
        self.last_served = 0

    def waited(self, now: float) -> float:
        """Return how long half of the sends without an answer have waited at least, in seconds."""
        return now - next(islice(self.since.values(), len(self.since) // 2, None), now)


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """The right to one send; hashed by identity."""

    endpoint: EndpointSlots
    is_probe: bool


class _Shares(NamedTuple):
    """The slots in total, those of probes, those for slow endpoints, and those of these for first sends."""

    total: int
    for_probes: int
    for_slow: int
    for_new: int


class ConcurrencyLimiter:
    """Limits concurrent sends in this process. A delivery that waits for a retry, or for a gate, holds no slot.

    Half of the slots are for endpoints whose sends are short on average, so that endpoints with slow or missing answers leave
    these slots free, however many there are. An endpoint counts as slow until its first answer, and while most of its sends
    fail or wait longer than a short send. A tenth of the slots are for probes.

    An endpoint uses at most its limit, which falls while its answers take longer than usual (see ``latency``), and at most the
    number of slots that stay free for its kind. So the slots are shared evenly, and some stay free for the next endpoint (the
    dynamic threshold of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).

    Args:
        total: concurrent sends, at least 1.
        per_endpoint: concurrent sends to one endpoint, at least 1.
        has_others: whether endpoints besides the given one have deliveries to send; their first slots stay free until they ask.
        clock: the time in seconds; by default, that of the event loop.
    """

    def __init__(
        self,
        total: int,
        per_endpoint: int,
        *,
        has_others: Callable[[EndpointSlots], bool],
        clock: Clock = _loop_time,
    ) -> None:
        for_probes = int(total * _PROBES_SHARE)
        for_slow = total - total // 2 - for_probes
        self._shares = _Shares(total, for_probes, for_slow, int(for_slow * _NEW_SHARE))
        self._per_endpoint = per_endpoint
        self._has_others = has_others
        self._clock = clock
        self._probes = self._in_use = self._slow_in_use = 0
        # The endpoints that use slots, and those with waiting sends; the values are unused.
        self._using: dict[EndpointSlots, None] = {}
        self._waiting: dict[EndpointSlots, None] = {}
        self._served = 0
        self._aged_at = 0.0

    def slots(self, own_limit: int | None = None) -> EndpointSlots:
        """Return the slots of another endpoint; ``own_limit`` replaces the common limit."""
        return EndpointSlots(min(own_limit or self._per_endpoint, (self._shares.total + 1) // 2))

    def share(self, endpoint: EndpointSlots) -> int:
        """Return how many slots this endpoint can expect while other endpoints also need slots."""
        slots = (
            self._shares.total - self._slow_in_use
            if endpoint.is_short
            else self._shares.for_slow - self._shares.for_new
        )
        others = sum(
            other.is_short == endpoint.is_short
            for other in self._using | self._waiting
            if other is not endpoint
        )
        return min(endpoint.allowed, max(1, slots // (others + 2)))

    @property
    def may_probe(self) -> bool:
        """Whether a probe would get a slot at once, as far as probes have slots of their own."""
        return not self._shares.for_probes or self._probes < self._shares.for_probes

    async def acquire(self, endpoint: EndpointSlots, *, is_probe: bool = False, starts: bool = False) -> Slot:
        """Wait for a slot. The waiters of an endpoint get slots in order of arrival.

        Args:
            endpoint: the endpoint's slots.
            is_probe: whether to take a slot of the probes if one is free.
            starts: whether its send begins later, with ``begin``.
        """
        if is_probe and self._probes < self._shares.for_probes:
            self._probes += 1
            return Slot(endpoint, is_probe=True)
        self._notice_ages()
        if endpoint.waiting or not self._may_take(endpoint):
            await self._wait(endpoint)
        else:
            self._change(endpoint, 1)
        slot = Slot(endpoint, is_probe=False)
        self._using[endpoint] = None
        endpoint.since[slot] = inf if starts else self._clock()
        return slot

    def begin(self, slot: Slot) -> None:
        """Note that the send of a slot begins."""
        if slot.endpoint.since.pop(slot, None) is not None:
            slot.endpoint.since[slot] = self._clock()

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        if slot.is_probe:
            self._probes -= 1
            return
        del slot.endpoint.since[slot]
        if not slot.endpoint.since:
            del self._using[slot.endpoint]
        self._give_back(slot.endpoint)

    def note_send(self, endpoint: EndpointSlots, seconds: float, *, has_failed: bool = False) -> None:
        """Take the duration of a send into account. A failure counts as a long send, so that others come first."""
        endpoint.latency.note_answer(seconds, self._clock(), has_failed=has_failed)
        if has_failed:
            seconds = max(seconds, 2 * SHORT_SECONDS)
        before = seconds if endpoint.average is None else endpoint.average
        endpoint.average = before + _WEIGHT * (seconds - before)
        self._classify(endpoint)

    async def _wait(self, endpoint: EndpointSlots) -> None:
        turn = asyncio.get_running_loop().create_future()
        endpoint.waiting.append(turn)
        self._waiting[endpoint] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(endpoint)
            else:
                self._forget_cancelled(endpoint)
            raise

    def _forget_cancelled(self, endpoint: EndpointSlots) -> None:
        while endpoint.waiting and endpoint.waiting[0].done():
            endpoint.waiting.popleft()
        if not endpoint.waiting:
            self._waiting.pop(endpoint, None)

    def _may_take(self, endpoint: EndpointSlots) -> bool:
        used = endpoint.used
        if self._in_use >= self._shares.total - self._shares.for_probes or used >= endpoint.allowed:
            return False
        if endpoint.is_short:
            return used < self._shares.total - self._in_use
        free = self._shares.for_slow - self._slow_in_use
        if endpoint.average is None and (not used or self._has_others(endpoint)):
            return not used and free > 0
        return used < free - self._shares.for_new

    def _give_back(self, endpoint: EndpointSlots) -> None:
        self._change(endpoint, -1)
        # While slow endpoints can use only their own slots, a short send frees none for them.
        ordinary = self._shares.total - self._shares.for_probes
        self._wake(
            slow=not endpoint.is_short or ordinary - self._in_use <= self._shares.for_slow - self._slow_in_use
        )

    def _change(self, endpoint: EndpointSlots, by: int) -> None:
        endpoint.used += by
        self._in_use += by
        if not endpoint.is_short:
            self._slow_in_use += by

    def _notice_ages(self) -> None:
        now = self._clock()
        if now - self._aged_at >= _AGES_SECONDS:
            self._aged_at = now
            for endpoint in self._using:
                self._classify(endpoint)

    def _classify(self, endpoint: EndpointSlots) -> None:
        waited = endpoint.waited(self._clock())  # the averages know only answered sends
        endpoint.allowed = endpoint.latency.limit(waited)
        average = endpoint.average
        is_short = average is not None and average <= SHORT_SECONDS and waited <= SHORT_SECONDS
        if is_short != endpoint.is_short:
            endpoint.is_short = is_short
            self._slow_in_use += -endpoint.used if is_short else endpoint.used
            self._wake()

    def _wake(self, *, slow: bool = True) -> None:
        """Give free slots to waiting endpoints; ``slow`` tells whether slow ones may get one, too."""
        while self._waiting:
            if slow and self._slow_in_use < self._shares.for_slow:
                endpoint = self._next_of(self._waiting)
            else:
                endpoint = self._next_of(each for each in self._waiting if each.is_short)
            if endpoint is None:
                return
            turn = endpoint.waiting.popleft()
            if not endpoint.waiting:
                del self._waiting[endpoint]
            if not turn.done():  # the waiter may have been cancelled
                self._served += 1
                endpoint.last_served = self._served
                self._change(endpoint, 1)
                turn.set_result(None)

    def _next_of(self, endpoints: Iterable[EndpointSlots]) -> EndpointSlots | None:
        """Return the endpoint that uses the fewest slots; among equals, the one served longest ago."""
        return min(
            filter(self._may_take, endpoints),
            key=lambda endpoint: (endpoint.used, endpoint.last_served),
            default=None,
        )
