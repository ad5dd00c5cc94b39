"""HTTP clients for the bench of ``serve``: paced, slow, and faster than the server."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus

_STATUS_AT = slice(9, 12)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_SINGLE, _BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_SLOW_BYTES = 16 * 1024


@dataclass
class Overload:
    """The answers to a flood of requests, each with a batch of events.

    Attributes:
        accepted: the number of requests that were answered 202.
        refused: the answers 503 with a ``Retry-After``.
        others: other answers, as text.
    """

    accepted: int = 0
    refused: int = 0
    others: list[str] = field(default_factory=list)


class Connection:
    """A persistent connection to the server."""

    def __init__(
        self, token: str, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._token = token
        self._kind = kind
        self._reader = reader
        self._writer = writer

    async def post(self, body: bytes) -> bytes:
        """Send a request, and return the head of the answer."""
        self.begin(len(body))
        self._writer.write(body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        await self._reader.readexactly(int(length[1]) if length else 0)
        return head

    def begin(self, length: int) -> None:
        """Send the head of a request with a body of this length."""
        head = (
            f"POST /events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: {self._kind}\r\nContent-Length: {length}\r\n\r\n"
        )
        self._writer.write(head.encode())

    async def send(self, part: bytes) -> None:
        """Send a part of a body, as fast as the server reads."""
        self._writer.write(part)
        await self._writer.drain()


@contextlib.asynccontextmanager
async def connections(
    port: int, token: str, number: int, kind: str = _SINGLE
) -> AsyncIterator[list[Connection]]:
    """Open this many connections during the block."""
    opened = [await asyncio.open_connection("127.0.0.1", port, limit=1 << 20) for _ in range(number)]
    try:
        yield [Connection(token, kind, *each) for each in opened]
    finally:
        for _, writer in opened:
            writer.close()


def single(prefix: str, number: int, size: int = 230) -> bytes:
    """Make an event."""
    event = {
        "specversion": "1.0",
        "id": f"{prefix}-{number}",
        "type": "com.example.order.paid",
        "source": "https://shop.example.com/orders",
        "data": {"order": number, "note": "x" * size},
    }
    return json.dumps(event).encode()


async def paced(port: int, token: str, prefix: str, *, rate: float, count: int, number: int) -> list[float]:
    """Send single events at a fixed rate, and return the seconds from the planned moment of each to its answer.

    Args:
        port: the server's port.
        token: for the requests.
        prefix: of the events' ids.
        rate: events per second.
        count: events in all.
        number: connections; a request waits for a free one.
    """
    free: asyncio.Queue[Connection] = asyncio.Queue()
    took: list[float] = []

    async def send(planned: float, body: bytes) -> None:
        connection = await free.get()
        head = await connection.post(body)
        took.append(time.monotonic() - planned)
        free.put_nowait(connection)
        if head[_STATUS_AT] != b"202":
            raise RuntimeError(f"the answer was {head.decode()}")

    async with connections(port, token, number) as opened, asyncio.TaskGroup() as sending:
        for connection in opened:
            free.put_nowait(connection)
        start = time.monotonic()
        for each in range(count):
            planned = start + each / rate
            await asyncio.sleep(planned - time.monotonic())
            sending.create_task(send(planned, single(prefix, each)))
    return took


@contextlib.asynccontextmanager
async def slow_clients(port: int, token: str, number: int) -> AsyncIterator[None]:
    """Let this many clients send a large event during the block: a part of it before, then a byte each second.

    Raises:
        RuntimeError: the server has closed a connection.
    """

    async def send(connection: Connection) -> None:
        while True:
            await connection.send(b" ")
            await asyncio.sleep(1)

    async with connections(port, token, number) as opened:
        for each in opened:
            each.begin(1 << 20)
            await each.send(b" " * _SLOW_BYTES)
        sending = [asyncio.create_task(send(each)) for each in opened]
        yield
        if any(task.done() for task in sending):
            raise RuntimeError("the server has closed connections of slow clients")
        for task in sending:
            task.cancel()


async def overload(port: int, token: str, *, seconds: float, number: int, batch: int) -> Overload:
    """Send batches over many connections as fast as the server reads, and repeat each refused one when it asks for it.

    Args:
        port: the server's port.
        token: for the requests.
        seconds: requests that are open then are still answered.
        number: connections.
        batch: events in a request, each with 1 KB of data.
    """
    found = Overload()
    until = time.monotonic() + seconds

    async def send(name: int, connection: Connection) -> None:
        template = b"[" + b",".join(single("PREFIX", each, size=1_000) for each in range(batch)) + b"]"
        turn = 0
        while time.monotonic() < until:
            head = await connection.post(template.replace(b"PREFIX", f"flood-{name}-{turn}".encode()))
            status = int(head[_STATUS_AT])
            wait = _RETRY_AFTER.search(head)
            if status == HTTPStatus.ACCEPTED:
                found.accepted += 1
                turn += 1
            elif status == HTTPStatus.SERVICE_UNAVAILABLE and wait:
                found.refused += 1
                await asyncio.sleep(int(wait[1]))
            else:
                found.others.append(head.decode())
                return

    async with connections(port, token, number, _BATCH) as opened:
        await asyncio.gather(*(send(name, each) for name, each in enumerate(opened)))
    return found
