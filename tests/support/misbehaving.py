"""Receivers that misbehave on real sockets, and the failures that they cause."""

import asyncio
import contextlib
import functools
import re
import socket
import ssl
import struct
from datetime import UTC, datetime

import aiohttp
import httpx
import pytest
import trustme
from httpx_aiohttp import AiohttpTransport

from resonant.delivery.classification import classify
from resonant.errors import UnexpectedStatus

NOW = datetime(2019, 6, 3, 11, 0, 0, tzinfo=UTC).timestamp()
TRANSPORTS = {"httpx": httpx.AsyncHTTPTransport, "aiohttp": AiohttpTransport}


def judge(failure, **options):
    return classify(failure, now=NOW, **options)


def by_sink(status, retry_after=None):
    return UnexpectedStatus(status, retry_after)


def by_aiohttp(status, retry_after=None):
    headers = aiohttp.typedefs.CIMultiDict({"retry-after": retry_after} if retry_after else {})
    return aiohttp.ClientResponseError(None, (), status=status, headers=headers)


@contextlib.asynccontextmanager
async def misbehaving(behave, tls=None):
    """Run a server that applies this behaviour to every connection and then closes it; yield its port."""

    handlers = set()

    async def handle(reader, writer):
        handlers.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await behave(reader, writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if handlers:
            await asyncio.wait(handlers, timeout=5)


async def disconnect(reader, writer):
    """Read the request to its last byte: closing a socket with unread bytes resets it."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *([0-9]+)", head)
    await reader.readexactly(int(length[1]) if length else 0)


async def reset(reader, writer):
    await disconnect(reader, writer)
    await reset_at_once(reader, writer)


async def reset_at_once(reader, writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def say_nothing(reader, writer):
    await reader.read()  # until the client gives up


broken = {"x": "a\nb"}


def says(answer):
    async def say(reader, writer):
        await disconnect(reader, writer)
        writer.write(answer)

    return say


garbage = says(b"no HTTP at all\r\n\r\n")
truncated = says(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfive!")
truncated_chunk = says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nfive!")
no_gzip = says(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nfive!")
in_circles = says(b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


def failing():
    return pytest.raises(Exception)  # noqa: PT011 - the classifier must judge any error


async def post(url, transport, *, content=b"{}", headers=None, **options):
    """Post with httpx, and return the failure."""
    async with httpx.AsyncClient(transport=transport, **{"timeout": 5.0, **options}) as client:
        with failing() as failure:
            await client.post(url, content=content, headers=headers)
        return failure.value


def to(behave, *, scheme="http", tls=None, url="{scheme}://localhost:{port}/", **options):
    """Return a function that fails against a server with this behaviour, for each transport."""

    async def fail(transport):
        async with misbehaving(behave, tls and tls()) as port:
            return await post(url.format(scheme=scheme, port=port), transport(), **options)

    return fail


@contextlib.contextmanager
def full_backlog():
    """Yield a port that neither accepts nor refuses: its queue of connections is full."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@functools.cache
def authority():
    return trustme.CA()


def certificate(name, issuer=authority):
    def server_side():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issuer().issue_cert(name).configure_cert(context)
        return context

    return server_side


def chained(*links):
    """Return the last of these errors, each raised from the one before it."""
    cause = None
    for link in links:
        try:
            raise link from cause
        except type(link) as failure:
            cause = failure
    return cause


class StrangeError(Exception):
    """An error that the classifier does not know."""
