"""Long operations in short steps: searches of at most 10,000 rows, and transactions of about 40 ms."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, func, select

from resonant.store import Store, schema

T = TypeVar("T")

# The rows that one statement searches: with a look-up for each, this takes up to 100 ms.
SEARCHED = 10_000
# The target duration of a transaction, in seconds, and the bounds of its size. They limit how long others wait for the write
# lock; larger batches would need more memory and save no time.
_TRANSACTION_SECONDS = 0.04
_FEWEST, _FIRST, _MOST = 50, 100, 5_000
# The pause between two transactions lets waiting writers get the lock: SQLite has no queue, and a writer checks every 2 ms.
PAUSE_SECONDS = 0.004
_key = schema.events.c.key


class KeyRange(NamedTuple):
    """The keys of some events: greater than ``after``, up to ``until``."""

    after: int
    until: int

    def has(self, column: ColumnElement[int]) -> ColumnElement[bool]:
        """Return the condition that a column has one of these keys."""
        return and_(column > self.after, column <= self.until)


class Batches:
    """The transactions of one operation, of a size that follows the duration of the last one."""

    def __init__(self, store: Store) -> None:
        self.size = _FIRST
        self._store = store

    async def write(
        self, operation: Callable[..., T], items: Sequence[Any], *args: Any, **options: Any
    ) -> AsyncIterator[T]:
        """Run an operation on these items, some in each transaction, with pauses; yield each result."""
        done = 0
        while done < len(items):
            some = items[done : done + self.size]
            result, seconds = await self._store.write(self._timed, operation, some, *args, **options)
            done += len(some)
            self.size = next_size(self.size, seconds)
            yield result
            await asyncio.sleep(PAUSE_SECONDS)

    def _timed(
        self, connection: Connection, operation: Callable[..., T], *args: Any, **options: Any
    ) -> tuple[T, float]:
        # Within the transaction: the wait for the write lock does not count.
        began = self._store.steady()
        return operation(connection, *args, **options), self._store.steady() - began


def next_size(size: int, seconds: float) -> int:
    """Return the size of the next transaction, given the duration of one of this size: it grows slowly and shrinks at once."""
    aimed = int(size * _TRANSACTION_SECONDS / max(seconds, 1e-6))
    return max(_FEWEST, min(aimed, 2 * size, _MOST))


async def each_range(store: Store, search: Callable[[Connection, KeyRange], T]) -> AsyncIterator[T]:
    """Search all events that are stored now, in ranges of their keys, each in its own snapshot; yield each result."""
    after, newest = 0, await store.read(_newest)
    while after < newest:
        after, found = await store.read(_next_range, search, after, newest)
        yield found


def _newest(connection: Connection) -> int:
    return connection.execute(select(func.max(_key))).scalar() or 0


def _next_range(
    connection: Connection, search: Callable[[Connection, KeyRange], T], after: int, newest: int
) -> tuple[int, T]:
    # Keys may have large gaps.
    query = select(_key).where(_key > after, _key <= newest).order_by(_key).offset(SEARCHED - 1).limit(1)
    until = connection.execute(query).scalar() or newest
    return until, search(connection, KeyRange(after, until))
