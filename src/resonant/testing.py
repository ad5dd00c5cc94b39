"""A receiver that misbehaves on purpose, and a clock that stands still: for Resonant's tests and for yours.

The receiver is a real HTTP/1.1 server on a real socket. A *script* decides what each request meets::

    def script(request: Request) -> Action:
        return respond(500) if request.try_number == 1 else respond(200)

    async with Receiver(script) as receiver:
        ...  # send to receiver.url
        assert receiver.journal[-1].status == 200

It runs as a process of its own too, so that its journal outlives a sender killed with ``kill -9``::

    python -m resonant.testing --port 0 --journal received.jsonl --script resonant.testing:eight_ways

A random generator for tests needs no help of ours: ``random.Random(7)``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import pkgutil
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    import ssl

_MAX_HEAD_BYTES = 256 * 1024
_BACKLOG = 1024
_CHUNK = b"x" * 16 * 1024


class FixedClock:
    """A clock that stands still until it is told to move; calling it returns seconds since the epoch."""

    def __init__(self, start: float) -> None:
        self._now = start

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on (or back, as real ones do, with a negative number of seconds)."""
        self._now += seconds


@dataclass(frozen=True, slots=True)
class Request:
    """What a script sees of a request.

    Attributes:
        webhook_id: the event's id; empty where the header is missing.
        try_number: how many-th time this webhook-id arrives, from 1.
        path: with the query, as sent.
        headers: names in lower case.
        received_at: seconds since the epoch.
    """

    webhook_id: str
    try_number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    received_at: float

    @property
    def event_type(self) -> str:
        """The CloudEvents ``type``; empty where the header is missing."""
        return self.headers.get("ce-type", "")


@dataclass(frozen=True, slots=True)
class Received:
    """One line of the journal: a request and what it was answered with.

    Attributes:
        action: the action's name, e.g. ``respond`` or ``reset_mid_response``.
        status: the status the action begins to send; None where it sends none.
    """

    webhook_id: str
    try_number: int
    received_at: float
    body: bytes
    headers: Mapping[str, str]
    action: str
    status: int | None

    def to_json(self) -> str:
        """Write it as one line of JSON: ``body`` in base64, and its SHA-256 in hex for a quick comparison."""
        fields = asdict(self) | {
            "body": base64.b64encode(self.body).decode(),
            "sha256": hashlib.sha256(self.body).hexdigest(),
        }
        return json.dumps(fields)

    @classmethod
    def from_json(cls, line: str) -> Received:
        """Read what ``to_json`` wrote."""
        fields = json.loads(line)
        del fields["sha256"]
        return cls(**fields | {"body": base64.b64decode(fields["body"])})


def read_journal(path: Path | str) -> list[Received]:
    """Read a receiver's journal, also while it is being written: a last line that is not complete is left out."""
    lines = Path(path).read_text().splitlines(keepends=True)
    return [Received.from_json(line) for line in lines if line.endswith("\n")]


Perform = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Action:
    """What a request meets. Make your own from a name and a coroutine function that writes to the stream.

    Attributes:
        name: what the journal calls it.
        perform: called with the connection's reader and writer once the request has been read and journalled. If
            it leaves the writer open, the connection is kept alive.
        status: what the journal shows as the status.
    """

    name: str
    perform: Perform = field(repr=False)
    status: int | None = None


Script = Callable[[Request], Action]


def respond(
    status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", delay: float = 0.0
) -> Action:
    """Answer properly, ``delay`` seconds late."""

    async def perform(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if delay:
            await asyncio.sleep(delay)
        writer.write(_head(status, len(body), headers) + body)

    return Action("respond", perform, status)


def redirect(location: str, status: int = 302) -> Action:
    """Send the client elsewhere."""
    return Action("redirect", respond(status, {"location": location}).perform, status)


def reset_before_response() -> Action:
    """Take the request and reset the connection (TCP RST)."""
    return Action("reset_before_response", _send_and_reset(b""))


def reset_mid_response() -> Action:
    """Reset the connection in the middle of the status line: the client never learns the status."""
    return Action("reset_mid_response", _send_and_reset(b"HTTP/1.1 2"))


def reset_mid_body(status: int = 200) -> Action:
    """Reset the connection in the middle of the body: the client knows the status."""
    return Action("reset_mid_body", _send_and_reset(_head(status, 100) + b"half"), status)


def truncated_body(status: int = 200) -> Action:
    """Promise more bytes than are sent, and close in an orderly way."""
    return Action("truncated_body", _send_and_close(_head(status, 100) + b"half"), status)


def garbage() -> Action:
    """Answer with what is no HTTP at all."""
    return Action("garbage", _send_and_close(b"\x00\x16\x03 this is no HTTP\r\n\r\n"))


def never_answer() -> Action:
    """Take the request and say nothing, until the client hangs up."""

    async def perform(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(len(_CHUNK)):
            pass
        writer.close()

    return Action("never_answer", perform)


def slow_body(bytes_per_second: float = 1, status: int = 200) -> Action:
    """Answer at once, with a body that trickles on for as long as the client reads."""

    async def perform(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(status, 10_000_000))
        while not writer.is_closing():
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(1 / bytes_per_second)

    return Action("slow_body", perform, status)


def endless_body(status: int = 200) -> Action:
    """Answer at once, with a body that never ends and comes as fast as the client reads."""

    async def perform(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(status, None, {"transfer-encoding": "chunked"}))
        while not writer.is_closing():
            writer.write(b"%x\r\n%b\r\n" % (len(_CHUNK), _CHUNK))
            await writer.drain()

    return Action("endless_body", perform, status)


def _send_and_close(data: bytes) -> Perform:
    async def perform(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    return perform


def _send_and_reset(data: bytes) -> Perform:
    async def perform(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if data:
            writer.write(data)
            await writer.drain()
        # A linger time of 0 makes the kernel send RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    return perform


def _head(status: int, length: int | None, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} {_reason(status)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if length is not None and status >= HTTPStatus.OK and status != HTTPStatus.NO_CONTENT:
        lines.append(f"content-length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Whatever"


def always_ok(_: Request) -> Action:
    """The endpoint as one wishes it: 200 to everything."""
    return respond(200)


# What the first try meets, and what every later one does.
_EIGHT_WAYS = {
    "slow": (respond(200, delay=2.0), respond(200, delay=2.0)),
    "500-then-200": (respond(500), respond(200)),
    "503-retry-after": (respond(503, {"retry-after": "1"}), respond(200)),
    "429": (respond(429), respond(200)),
    "400": (
        respond(400, body=b'{"error": "no such amount"}'),
        respond(400, body=b'{"error": "no such amount"}'),
    ),
    "reset": (reset_mid_response(), reset_mid_response()),
    "silent": (never_answer(), never_answer()),
    "redirect": (redirect("https://example.com/moved"), redirect("https://example.com/moved")),
}


def eight_ways(request: Request) -> Action:
    """Misbehave in the way that the end of the event's type names, e.g. ``demo.reset``; 200 to any other type."""
    way = request.event_type.rpartition(".")[2]
    first, later = _EIGHT_WAYS.get(way, (respond(200), respond(200)))
    return first if request.try_number == 1 else later


def flaky(share: float, seed: int) -> Script:
    """Make a script that fails a share of first attempts with 500, the same ones whenever the seed is the same.

    Args:
        share: 0 to 1.
        seed: decides, together with the webhook-id, which ones.
    """

    def script(request: Request) -> Action:
        digest = hashlib.sha256(f"{seed}:{request.webhook_id}".encode()).digest()
        unlucky = int.from_bytes(digest[:8]) / 2**64 < share
        return respond(500) if unlucky and request.try_number == 1 else respond(200)

    return script


class Receiver:
    """The scripted receiver; use it as an async context manager.

    Attributes:
        journal: what was received, in order.
        accepted: how many connections were accepted.

    Raises:
        Exception: on leaving the context, what a script or an action raised; it must not pass for an endpoint's fault.
    """

    def __init__(
        self,
        script: Script | Action = always_ok,
        *,
        port: int = 0,
        journal_path: Path | str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare a receiver; it listens from ``async with`` on.

        Args:
            script: decides what each request meets; an action is the same for all.
            port: on 127.0.0.1; 0 takes a free one.
            journal_path: a file to append each request to as a line of JSON, before the request is answered.
            tls: makes the URL https.
        """
        self.journal: list[Received] = []
        self.accepted = 0
        self._script: Script = (lambda _: script) if isinstance(script, Action) else script
        self._port = port
        self._journal_path = journal_path
        self._journal_file: TextIO | None = None
        self._tls = tls
        self._tries: Counter[str] = Counter()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._failures: list[Exception] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where to send to, without a path."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        if self._journal_path is not None:
            self._journal_file = Path(self._journal_path).open("a")  # noqa: SIM115, ASYNC230 - open until __aexit__
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, ssl=self._tls, limit=_MAX_HEAD_BYTES, backlog=_BACKLOG
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        assert self._server is not None  # noqa: S101 - __aenter__ has set it
        self._server.close()
        connections = dict(self._connections)
        for task, writer in connections.items():
            writer.transport.abort()
            task.cancel()
        waits = [writer.wait_closed() for writer in connections.values()]
        await asyncio.gather(*connections, *waits, return_exceptions=True)
        await self._server.wait_closed()
        if self._journal_file is not None:
            self._journal_file.close()
        if self._failures and error is None:
            raise self._failures[0]

    # Not a coroutine function: then the streams module would own the task, and complain when it is cancelled.
    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                request = self._count(*await _read_request(reader))
                action = self._script(request)
                self._record(request, action)
                await action.perform(reader, writer)
                if request.headers.get("connection", "").lower() == "close":
                    writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client hung up
        except Exception as failure:  # noqa: BLE001 - a broken script must fail the test that wrote it
            self._failures.append(failure)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _count(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Request:
        webhook_id = headers.get("webhook-id", "")
        self._tries[webhook_id] += 1
        return Request(webhook_id, self._tries[webhook_id], method, path, headers, body, time.time())

    def _record(self, request: Request, action: Action) -> None:
        received = Received(
            webhook_id=request.webhook_id,
            try_number=request.try_number,
            received_at=request.received_at,
            body=request.body,
            headers=request.headers,
            action=action.name,
            status=action.status,
        )
        self.journal.append(received)
        if self._journal_file is not None:
            self._journal_file.write(received.to_json() + "\n")
            self._journal_file.flush()


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.rstrip().split("\r\n")
    method, path, _ = request_line.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return method, path, headers, body


async def _run(script: Script | Action, port: int, journal_path: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Receiver(script, port=port, journal_path=journal_path) as receiver:
        sys.stdout.write(f"{receiver.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a receiver until SIGTERM or SIGINT; its URL is the one line on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m resonant.testing", description="A scripted HTTP receiver."
    )
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 (the default) takes a free one")
    parser.add_argument("--journal", type=Path, help="append each request to this file as a line of JSON")
    parser.add_argument(
        "--script", default="resonant.testing:always_ok", help="MODULE:NAME of a script or an action"
    )
    options = parser.parse_args(arguments)
    asyncio.run(_run(pkgutil.resolve_name(options.script), options.port, options.journal))


if __name__ == "__main__":
    # Under the name __main__ this is a second copy of the module; scripts speak of the first.
    from resonant.testing import main as imported_main

    imported_main()
