"""Replay: send dead letters again, oldest first, at a limited rate with a slow start."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from resonant.dead_letters import operations
from resonant.errors import EmptySelection
from resonant.store.audit import audited
from resonant.store.engine.availability import retry_while_unavailable
from resonant.store.views.dead_letters import DeadLetters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy import Connection

    from resonant.events import Lease
    from resonant.store import Store, WorkerStore
    from resonant.store.views.selection import Selection

# The rate begins at a tenth and grows linearly for this long, to protect a recovering receiver.
SLOW_START_SECONDS = 10.0
_SLOW_START_SHARE = 0.1
# One burst makes up for at most this much delay of the process, in seconds. The rest of a recent delay is made up
# gradually.
_BURST_SECONDS = 0.05
_CATCH_UP_SHARE = 0.08
_REMEMBERED_SECONDS = 10.0
_UNPACED_BATCH = 100
_CANCEL_BATCH = 500
# Each search for unfinished deliveries sorts them all, so a cancellation makes few searches.
_MOST_FOUND = 100_000


def require_restricted(selection: Selection, *, everything: bool) -> None:
    """Refuse an empty selection, unless ``everything`` is set.

    Raises:
        EmptySelection: the selection is empty.
    """
    if selection.is_empty and not everything:
        raise EmptySelection("the selection is empty: add a filter, or select all explicitly")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Which dead letters to send again, and how.

    Attributes:
        selection: selects the dead letters.
        include_permanent: include permanent failures.
        limit: the maximum number.
        rate: dead letters per second, after the slow start; None for no limit.
        everything: allow an empty selection, which selects all.
        without_endpoints: skip the dead letters of these endpoints.

    Raises:
        EmptySelection: the selection is empty, but ``everything`` is not set.
    """

    selection: Selection
    include_permanent: bool = False
    limit: int | None = None
    rate: float | None = None
    everything: bool = False
    without_endpoints: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        require_restricted(self.selection, everything=self.everything)

    def as_dict(self) -> dict[str, object]:
        """Return the request, for the audit."""
        asked = {
            "all": self.everything,
            "include_permanent": self.include_permanent,
            "limit": self.limit,
            "rate": self.rate,
        }
        return {**self.selection.as_dict(), **{name: value for name, value in asked.items() if value}}

    def as_parameters(self) -> dict[str, Any]:
        """Return the request as parameters of the flow ``replay-dead-letters``."""
        return {
            **self.selection.as_parameters(),
            "all_dead_letters": self.everything,
            "include_permanent": self.include_permanent,
            "limit": self.limit,
            "rate": self.rate,
        }


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The number of dead letters that a replay would send now, and that it would skip.

    Attributes:
        selected: dead letters that would be sent again.
        permanent: dead letters skipped because their failure was permanent.
        beyond_limit: dead letters skipped because of the limit.
    """

    selected: int
    permanent: int
    beyond_limit: int

    def __str__(self) -> str:
        return "; ".join([f"{self.selected:,} would be sent again", *self.left_out])

    @property
    def left_out(self) -> list[str]:
        """Descriptions of the skipped dead letters."""
        found = []
        if self.permanent:
            found.append(
                f"{self.permanent:,} skipped because their failure was permanent: include_permanent=True "
                "(`resonant replay --include-permanent`) sends them too"
            )
        if self.beyond_limit:
            found.append(f"{self.beyond_limit:,} skipped because of the limit")
        return found


async def plan(store: Store, request: ReplayRequest) -> ReplayPlan:
    """Count the dead letters that a replay would take, without changing anything."""
    died_before = store.clock()

    def count(connection: Connection, *, include_permanent: bool) -> int:
        dead_letters = DeadLetters.of(
            connection,
            request.selection,
            include_permanent=include_permanent,
            without_endpoints=request.without_endpoints,
        )
        return dead_letters.count(connection, died_before=died_before)

    def both(connection: Connection) -> tuple[int, int]:
        return count(connection, include_permanent=True), count(
            connection, include_permanent=request.include_permanent
        )

    everything, taken = await store.read(both)
    selected = taken if request.limit is None else min(taken, request.limit)
    return ReplayPlan(selected, everything - taken, taken - selected)


async def endpoints_of(store: Store, request: ReplayRequest) -> list[str]:
    """Return the endpoints of the selected dead letters."""

    def read(connection: Connection) -> list[str]:
        dead_letters = DeadLetters.of(
            connection, request.selection, include_permanent=request.include_permanent
        )
        return dead_letters.endpoints(connection)

    return await store.read(read)


async def cancel(store: Store, selection: Selection, *, who: str) -> int:
    """Cancel the selected unfinished deliveries, except those being sent now; return their number.

    Args:
        store: open.
        selection: selects the deliveries; its times are acceptance times.
        who: the operator, for the audit.
    """
    now = store.clock()
    cancelled = 0
    async with audited(store, who=who, action="cancel", selection=selection.as_dict()) as audit_id:
        last = 0
        while found := await store.read(
            operations.look_for_unfinished, selection, accepted_until=now, limit=_MOST_FOUND, after=last
        ):
            for start in range(0, len(found), _CANCEL_BATCH):
                batch = found[start : start + _CANCEL_BATCH]
                cancelled += await store.write(
                    operations.cancel, selection, limit=len(batch), now=now, among=batch, audit_id=audit_id
                )
            last = found[-1]
    return cancelled


class Pace:
    """Limits the rate of a replay: a token bucket with a slow start.

    Args:
        rate: dead letters per second, after the slow start.
        slow_start: its length in seconds.
    """

    def __init__(self, rate: float, *, slow_start: float = SLOW_START_SECONDS) -> None:
        self._rate = rate
        self._slow_start = slow_start
        # Includes the refill of one pause; otherwise a punctual caller would lose fractions of a token.
        self._burst = max(1.0, rate * _BURST_SECONDS) + rate * self.pause()
        self._tokens = 0.0
        self._missed = 0.0
        self._filled_to = 0.0

    def take(self, elapsed: float) -> int:
        """Return how many dead letters may be sent now, and count them as sent.

        Args:
            elapsed: seconds since the start; never less than in the previous call.
        """
        new = self._allowed(elapsed) - self._allowed(self._filled_to)
        made_up = min(self._missed, _CATCH_UP_SHARE * new)
        tokens = self._tokens + new + made_up
        self._tokens = min(self._burst, tokens)
        forgotten_beyond = self._rate * _REMEMBERED_SECONDS
        self._missed = min(forgotten_beyond, self._missed - made_up + tokens - self._tokens)
        self._filled_to = elapsed
        whole = int(self._tokens)
        self._tokens -= whole
        return whole

    def pause(self) -> float:
        """Return the seconds to wait before the next call of ``take``."""
        return max(0.005, min(_BURST_SECONDS / 4, 1 / self._rate))

    def _allowed(self, elapsed: float) -> float:
        """Return the integral of the rate from 0. The rate grows from a tenth to the full rate, then stays constant."""
        ramp = min(elapsed, self._slow_start)
        share = _SLOW_START_SHARE * ramp
        if self._slow_start:
            share += (1 - _SLOW_START_SHARE) * ramp * ramp / (2 * self._slow_start)
        return self._rate * (share + max(0.0, elapsed - self._slow_start))


async def take_dead_letters(
    store: WorkerStore, request: ReplayRequest, *, owner: str, audit_id: int
) -> AsyncIterator[list[Lease]]:
    """Take the selected dead letters out of the queue in batches, at the requested rate, and lease them to the owner.

    A dead letter that fails again meanwhile is not taken again, and one that another replay holds is skipped.
    """
    started_at = store.clock()
    start = time.monotonic()
    pace = None if request.rate is None else Pace(request.rate)
    left = request.limit
    last = None
    while left is None or left > 0:
        wanted = _UNPACED_BATCH if pace is None else pace.take(time.monotonic() - start)
        if pace is not None and not wanted:
            await asyncio.sleep(pace.pause())
            continue
        take = partial(
            store.write_leases,
            operations.replay,
            request.selection,
            died_before=started_at,
            include_permanent=request.include_permanent,
            without_endpoints=request.without_endpoints,
            limit=wanted if left is None else min(wanted, left),
            owner=owner,
            audit_id=audit_id,
            after=last,
        )
        replayed = await retry_while_unavailable(take, store.lease_seconds / 3)
        # At the end, search once more from the beginning for rows that were skipped because they were locked.
        is_over = last is None and not replayed.leases
        last = replayed.last
        if is_over:
            return
        if left is not None:
            left -= len(replayed.leases)
        if replayed.leases:
            yield replayed.leases
