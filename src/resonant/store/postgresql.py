"""PostgreSQL by asyncpg: many writers, whose transactions the server tells apart."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from resonant.store.failures import plain_errors, sqlstate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Connection
    from sqlalchemy.engine import URL
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

P = ParamSpec("P")
T = TypeVar("T")

_CONNECT_TIMEOUT_SECONDS = 10
STATEMENT_TIMEOUT_SECONDS = 60
# Serialization failure; deadlock; an event that a purge removes just when it is given again. The server has rolled
# back, and another try finds clear ground.
_TRY_AGAIN = ("40001", "40P01", "23503")
_TRIES = 4


class PostgreSQL:
    """A PostgreSQL database as a ``Database``."""

    def __init__(self, url: URL, *, statement_timeout: float | None = STATEMENT_TIMEOUT_SECONDS) -> None:
        # Without its query, in which a password may stand too.
        self._name = url.set(query={}).render_as_string(hide_password=True)
        query: dict[str, Any] = dict(url.query)
        if "sslmode" in query:
            # What libpq calls it, and with it most services that hand out URLs.
            query["ssl"] = query.pop("sslmode")
        self._writing = create_async_engine(
            url.set(drivername="postgresql+asyncpg", query=query),
            pool_size=5,
            max_overflow=5,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={"timeout": _CONNECT_TIMEOUT_SECONDS, "command_timeout": statement_timeout},
        )
        self._reading = self._writing.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    def __str__(self) -> str:
        return self._name

    async def write(self, operation: Callable[[Connection], T]) -> T:
        """Run the operation in a transaction of its own, again where the server broke a deadlock; see ``Database``."""
        with plain_errors(self._name):
            tries_left = _TRIES
            while True:
                tries_left -= 1
                try:
                    async with self._connected(self._writing) as connection:
                        result = await connection.run_sync(operation)
                        await connection.commit()
                        return result
                except DBAPIError as error:
                    if sqlstate(error) not in _TRY_AGAIN or not tries_left:
                        raise

    async def read(self, operation: Callable[[Connection], T]) -> T:
        """Run the operation on one snapshot; see ``Database``."""
        with plain_errors(self._name):
            async with self._connected(self._reading) as connection:
                return await connection.run_sync(operation)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[_Transaction]:
        """Open a transaction for several operations; see ``Database``."""
        async with self._connected(self._writing) as connection:
            yield _Transaction(connection, self._name)
            with plain_errors(self._name):
                await connection.commit()

    async def reclaim_space(self) -> None:
        """Leave it to autovacuum, which makes the space of removed rows free for new ones; see ``Database``."""

    async def close(self) -> None:
        """Close every connection."""
        await self._writing.dispose()

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """Check out a connection; what is not committed when it is given back is rolled back."""
        async with AsyncExitStack() as stack:
            with plain_errors(self._name, Exception):  # drivers and their options fail in many ways
                connection = await stack.enter_async_context(engine.connect())
            yield connection


class _Transaction:
    def __init__(self, connection: AsyncConnection, name: str) -> None:
        self._connection = connection
        self._name = name

    async def run_sync(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with plain_errors(self._name):
            return await self._connection.run_sync(operation, *args, **kwargs)
