"""Limits on concurrent sends, in total and per endpoint, shared fairly."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

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


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """The right to one send; hashed by identity."""

    endpoint: str
    is_probe: bool


class ConcurrencyLimiter:
    """Limits concurrent sends in this process. A delivery that waits for a retry, or for a gate, holds no slot.

    Half of the slots are for endpoints whose sends are short on average, so that endpoints with slow or missing answers leave
    these slots free, however many there are. An endpoint counts as slow until its first answer, and while most of its sends
    fail or wait longer than a short send. A tenth of the slots are for probes.

    An endpoint uses at most its own limit, and at most the number of slots that stay free for its kind. So the slots are
    shared evenly, and some stay free for the next endpoint (the dynamic threshold of Choudhury and Hahne, IEEE/ACM
    Transactions on Networking 6(2), 1998).

    Args:
        total: concurrent sends, at least 1.
        per_endpoint: concurrent sends to one endpoint, at least 1.
        clock: the time in seconds; by default, that of the event loop.
    """

    def __init__(self, total: int, per_endpoint: int, *, clock: Clock = _loop_time) -> None:
        self._total = total
        self._for_probes = int(total * _PROBES_SHARE)
        self._for_slow = total - total // 2 - self._for_probes
        self._for_new = int(self._for_slow * _NEW_SHARE)
        self._per_endpoint = per_endpoint
        self._clock = clock
        self._own_limit: dict[str, int] = {}
        self._probes = self._in_use = self._slow_in_use = 0
        self._used: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._served = 0
        self._last_served: dict[str, int] = {}
        # The slots in use, oldest first, with the time at which they were taken.
        self._since: dict[str, dict[Slot, float]] = {}
        self._average: dict[str, float] = {}
        self._short: set[str] = set()
        self._aged_at = 0.0

    def limit(self, endpoint: str, own: int | None) -> None:
        """Set an endpoint's own limit; None keeps the common one."""
        if own is not None:
            self._own_limit[endpoint] = own

    def limit_of(self, endpoint: str) -> int:
        """Return the maximum number of slots for this endpoint if its sends are short and it is the only one."""
        return min(self._own_limit.get(endpoint, self._per_endpoint), (self._total + 1) // 2)

    def is_short(self, endpoint: str) -> bool:
        """Return whether the sends to this endpoint are short."""
        return endpoint in self._short

    def share(self, endpoint: str) -> int:
        """Return how many slots this endpoint can expect while other endpoints also need slots."""
        is_short = endpoint in self._short
        slots = self._total - self._slow_in_use if is_short else self._for_slow - self._for_new
        kinds = (
            name in self._short for name in self._since.keys() | self._waiting.keys() if name != endpoint
        )
        others = sum(kind == is_short for kind in kinds)
        return min(self.limit_of(endpoint), max(1, slots // (others + 2)))

    @property
    def may_probe(self) -> bool:
        """Whether a probe would get a slot at once, as far as probes have slots of their own."""
        return not self._for_probes or self._probes < self._for_probes

    async def acquire(self, endpoint: str, *, is_probe: bool = False) -> Slot:
        """Wait for a slot. The waiters of an endpoint get slots in order of arrival.

        Args:
            endpoint: the endpoint's name.
            is_probe: whether to take a slot of the probes if one is free.
        """
        if is_probe and self._probes < self._for_probes:
            self._probes += 1
            return Slot(endpoint, is_probe=True)
        self._notice_ages()
        if endpoint in self._waiting or not self._may_take(endpoint):
            await self._wait(endpoint)
        else:
            self._change(endpoint, 1)
        slot = Slot(endpoint, is_probe=False)
        self._since.setdefault(endpoint, {})[slot] = self._clock()
        return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        if slot.is_probe:
            self._probes -= 1
            return
        since = self._since[slot.endpoint]
        del since[slot]
        if not since:
            del self._since[slot.endpoint]
        self._give_back(slot.endpoint)

    def note_send(self, endpoint: str, seconds: float, *, has_failed: bool = False) -> None:
        """Take the duration of a send into account. A failure counts as a long send, so that others come first."""
        if has_failed:
            seconds = max(seconds, 2 * SHORT_SECONDS)
        before = self._average.get(endpoint, seconds)
        self._average[endpoint] = before + _WEIGHT * (seconds - before)
        self._classify(endpoint)

    async def _wait(self, endpoint: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(endpoint, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(endpoint)
            else:
                self._forget_cancelled(endpoint)
            raise

    def _forget_cancelled(self, endpoint: str) -> None:
        queue = self._waiting.get(endpoint, deque())
        while queue and queue[0].done():
            queue.popleft()
        if not queue:
            self._waiting.pop(endpoint, None)

    def _may_take(self, endpoint: str) -> bool:
        used, limit = self._used[endpoint], self.limit_of(endpoint)
        if self._in_use >= self._total - self._for_probes or used >= limit:
            return False
        if endpoint in self._short:
            return used < self._total - self._in_use
        free = self._for_slow - self._slow_in_use
        if endpoint not in self._average and (not used or self._has_others(endpoint)):
            return not used and free > 0
        return used < free - self._for_new

    def _has_others(self, endpoint: str) -> bool:
        return any(len(names) > (endpoint in names) for names in (self._since, self._waiting))

    def _give_back(self, endpoint: str) -> None:
        self._change(endpoint, -1)
        # While slow endpoints can use only their own slots, a short send frees none for them.
        is_of_slow = endpoint not in self._short
        ordinary = self._total - self._for_probes
        self._wake(slow=is_of_slow or ordinary - self._in_use <= self._for_slow - self._slow_in_use)

    def _change(self, endpoint: str, by: int) -> None:
        self._used[endpoint] += by
        self._in_use += by
        if endpoint not in self._short:
            self._slow_in_use += by

    def _notice_ages(self) -> None:
        now = self._clock()
        if now - self._aged_at >= _AGES_SECONDS:
            self._aged_at = now
            for endpoint in self._since:
                self._classify(endpoint)

    def _classify(self, endpoint: str) -> None:
        is_short = self._average.get(endpoint, SHORT_SECONDS + 1) <= SHORT_SECONDS
        if is_short and (since := self._since.get(endpoint)):
            # The average knows only answered sends.
            late, too_old = 0, self._clock() - SHORT_SECONDS
            for at in since.values():
                if at >= too_old:
                    break
                late += 1
            is_short = 2 * late <= len(since)
        if is_short == (endpoint in self._short):
            return
        used = self._used[endpoint]
        if is_short:
            self._short.add(endpoint)
            self._slow_in_use -= used
        else:
            self._short.remove(endpoint)
            self._slow_in_use += used
        self._wake()

    def _wake(self, *, slow: bool = True) -> None:
        """Give free slots to waiting endpoints; ``slow`` tells whether slow ones may get one, too."""
        while self._waiting:
            if slow and self._slow_in_use < self._for_slow:
                endpoint = self._next_of(self._waiting)
            else:
                endpoint = self._next_of(name for name in self._short if name in self._waiting)
            if endpoint is None:
                return
            turn = self._waiting[endpoint].popleft()
            if not self._waiting[endpoint]:
                del self._waiting[endpoint]
            if not turn.done():  # the waiter may have been cancelled
                self._served += 1
                self._last_served[endpoint] = self._served
                self._change(endpoint, 1)
                turn.set_result(None)

    def _next_of(self, endpoints: Iterable[str]) -> str | None:
        """Return the endpoint that uses the fewest slots; among equals, the one served longest ago."""
        return min(
            filter(self._may_take, endpoints),
            key=lambda name: (self._used[name], self._last_served.get(name, 0)),
            default=None,
        )
