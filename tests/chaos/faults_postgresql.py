"""A way to a PostgreSQL server that may lose an answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from support.postgresql import url_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.postgresql import PostgreSQLServer

_SOCKET = ".s.PGSQL.5432"
DATABASE = "faults"


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
    async def opened(self, server: PostgreSQLServer, folder: Path) -> AsyncIterator[str]:
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
            yield url_in(folder, DATABASE)
        finally:
            listening.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Closed in any case: who closes a connection waits until the other end does.
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
    finally:
        writer.close()
