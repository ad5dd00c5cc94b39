"""Parses large bodies one at a time, by turns: a producer waits for at most one body of each other producer."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class ParsingTurns:
    """Runs work in a thread, one piece at a time, and takes the names in turn. It belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._is_busy = False

    async def run(self, name: str, work: Callable[[], T]) -> T:
        """Run the work, and return its result. If the caller is cancelled, the turn still lasts until the work ends.

        Args:
            name: the producer's name.
            work: called in a thread.
        """
        if self._is_busy:
            await self._turn(name)
        self._is_busy = True
        working = asyncio.ensure_future(asyncio.to_thread(work))
        working.add_done_callback(lambda _: self._end())
        return await asyncio.shield(working)

    async def _turn(self, name: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._end()
            raise

    def _end(self) -> None:
        """Give the turn to the name that has waited longest; its next work goes to the end."""
        while self._waiting:
            name = next(iter(self._waiting))
            turns = self._waiting.pop(name)
            turn = turns.popleft()
            if turns:
                self._waiting[name] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._is_busy = False
