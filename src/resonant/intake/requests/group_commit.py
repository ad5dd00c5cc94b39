"""Stores single events of concurrent requests together: a commit costs the same for one event as for 200.

There is no timer. While no transaction runs, an event is stored at once; those that arrive meanwhile share the next transaction.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from resonant.errors import StillLocked, StoreError
from resonant.events import Event
from resonant.intake.requests.lock_turns import GROUP_LOCK_SECONDS, LOCK_TRY_SECONDS, LockTurns
from resonant.store import Store
from resonant.store.queue.accept import Acceptance, accept

logger = logging.getLogger(__name__)

MOST_EVENTS = 200
_PATIENCE_SECONDS = 0.1
# Of the connections to PostgreSQL: for groups, and for the events of those that had to wait for a lock.
_MOST_AT_ONCE, _MOST_ALONE = 4, 2
# Shorter than other waits: many events of a group may be locked.
_ALONE_LOCK_SECONDS = 0.005


class _Queued(NamedTuple):
    event: Event
    endpoint: str | None
    answer: asyncio.Future[Acceptance]


class GroupCommit:
    """Stores events of one event loop in shared transactions.

    Args:
        store: receives the events.
        turns: for events that another transaction has locked.
    """

    def __init__(self, store: Store, turns: LockTurns) -> None:
        self._store = store
        self._turns = turns
        self._waiting: list[_Queued] = []
        self._writing: set[asyncio.Task[None]] = set()
        self._writing_alone: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Semaphore(_MOST_ALONE)
        self._writer: asyncio.Task[None] | None = None

    async def accept(self, event: Event, endpoint: str | None) -> Acceptance:
        """Store an event, and return its outcome after the commit. If the caller is cancelled, the event may be stored.

        While another transaction holds a lock on the event, this event alone waits, until the caller is cancelled.

        Args:
            event: is stored.
            endpoint: receives it; None: the subscriptions decide.

        Raises:
            StoreError: nothing is stored, or the commit is not confirmed.
        """
        if event.id not in self._turns:
            answer: asyncio.Future[Acceptance] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Queued(event, endpoint, answer))
            if self._writer is None:
                self._writer = asyncio.create_task(self._write_all())
            with suppress(StillLocked):
                return await answer
        # By its id only: a transaction locks the events of all sources with this id.
        [outcome] = await self._turns.write_in_turn(
            event.id, accept, [(event, endpoint)], now=self._store.clock()
        )
        return outcome

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                # The requests of the others were cancelled.
                waiting = [each for each in self._waiting if not each.answer.done()]
                group, self._waiting = waiting[:MOST_EVENTS], waiting[MOST_EVENTS:]
                if group:
                    await self._begin(group)
        finally:
            self._writer = None

    async def _begin(self, group: Sequence[_Queued]) -> None:
        """Write a group, and wait for a while: a transaction that waits for a lock does not hold up later ones."""
        writing = asyncio.create_task(self._write(group))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        await asyncio.wait((writing,), timeout=_PATIENCE_SECONDS)
        if len(self._writing) == _MOST_AT_ONCE:
            await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)

    async def _write(self, group: Sequence[_Queued]) -> None:
        is_one = len(group) == 1
        try:
            await self._store_all(group, LOCK_TRY_SECONDS if is_one else GROUP_LOCK_SECONDS)
        except Exception as error:
            if is_one or (isinstance(error, StoreError) and not isinstance(error, StillLocked)):
                _fail(group, error)
                return
            if not isinstance(error, StillLocked):
                logger.exception("storing %d events one by one after an error", len(group))
            # One event must not make the others, or later groups, fail or wait.
            writing = asyncio.create_task(self._write_one_by_one(group))
            self._writing_alone.add(writing)
            writing.add_done_callback(self._writing_alone.discard)

    async def _write_one_by_one(self, group: Sequence[_Queued]) -> None:
        for each in group:
            async with self._alone:
                if each.answer.done():  # its request was cancelled
                    continue
                if each.event.id in self._turns:
                    _fail([each], StillLocked("another transaction holds a lock on this event"))
                    continue
                try:
                    await self._store_all([each], _ALONE_LOCK_SECONDS)
                except Exception as error:  # noqa: BLE001 - it is the answer
                    _fail([each], error)

    async def _store_all(self, group: Sequence[_Queued], lock_seconds: float) -> None:
        wanted = [(each.event, each.endpoint) for each in group]
        outcomes = await self._store.write_soon(lock_seconds, accept, wanted, now=self._store.clock())
        for each, outcome in zip(group, outcomes, strict=True):
            if not each.answer.done():  # else its request was cancelled
                each.answer.set_result(outcome)


def _fail(group: Sequence[_Queued], error: Exception) -> None:
    for each in group:
        if not each.answer.done():
            each.answer.set_exception(error)
