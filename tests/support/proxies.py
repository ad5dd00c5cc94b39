"""Debian's tinyproxy on the loopback interface, as a company's proxy."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from support.failures import show_on_failure
from support.ports import free_port, listens
from support.programs import need
from support.waiting import wait_until

_ENDS_WITHIN_SECONDS = 60.0


@dataclass
class RunningProxy:
    """A proxy of a test.

    Attributes:
        url: its URL, without user and password.
        log: its log file, with a line for each request.
    """

    url: str
    log: Path

    def with_user(self, user: str, password: str) -> str:
        """Return its URL with a user and a password."""
        return self.url.replace("://", f"://{user}:{password}@")

    def lines(self, containing: str) -> list[str]:
        """Return the lines of its log that contain a text."""
        return [line for line in self.log.read_text().splitlines() if containing in line]


@contextmanager
def tinyproxy(folder: Path, *settings: str) -> Iterator[RunningProxy]:
    """Run a proxy with further lines of its configuration, such as ``BasicAuth USER PASSWORD``."""
    program = need("tinyproxy")
    port = free_port()
    log = folder / "tinyproxy.log"
    show_on_failure("tinyproxy", log)
    configuration = folder / "tinyproxy.conf"
    lines = (
        f"Port {port}",
        "Listen 127.0.0.1",
        f'LogFile "{log}"',
        "LogLevel Connect",
        "Timeout 30",
        "MaxClients 50",
        'ViaProxyName "tinyproxy"',
        *settings,
    )
    configuration.write_text("\n".join((*lines, "")))
    with subprocess.Popen([program, "-d", "-c", configuration]) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None
            yield RunningProxy(f"http://127.0.0.1:{port}", log)
        finally:
            process.terminate()
            process.wait(_ENDS_WITHIN_SECONDS)


@asynccontextmanager
async def with_tls(proxy: RunningProxy, tls: ssl.SSLContext) -> AsyncIterator[str]:
    """Accept TLS in front of a proxy, and yield the ``https`` URL."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        there = await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in accepted:
            writer.close()
