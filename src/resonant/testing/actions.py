"""Actions: the receiver's reactions to a request."""

import asyncio
import functools
import math
import socket
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, cast

from resonant.testing.dates import DateForm, http_date

Perform = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
# After the bytes: read the next request, wait until the client disconnects, close both directions (FIN), close one
# direction (FIN), or reset (RST).
End = Literal["keep", "hold", "close", "half_close", "reset"]

_CHUNK = b"x" * 16 * 1024
_FLOOD_BYTES = 64 * 1024
_BOMB_MIB = 128


@dataclass(frozen=True, slots=True)
class Action:
    """A reaction to a request. Create your own from a name and a coroutine function that writes to the stream.

    Attributes:
        name: the action's name in the journal.
        perform: called with the connection's reader and writer once the request has been read and journalled. If
            it leaves the writer open, the connection is kept alive.
        status: the status in the journal.
    """

    name: str
    perform: Perform = field(repr=False)
    status: int | None = None


def respond(
    status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", delay: float = 0.0
) -> Action:
    """Send a proper answer after ``delay`` seconds."""

    async def perform(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if delay:
            await asyncio.sleep(delay)
        writer.write(_head(status, len(body), headers) + body)

    return Action("respond", perform, status)


def redirect(location: str, status: int = 302) -> Action:
    """Redirect the client. Use ``/`` for an endless loop."""
    return Action("redirect", respond(status, {"location": location}).perform, status)


def retry_after(value: str, status: int = 429) -> Action:
    """Refuse with a ``Retry-After`` of this value, which may be invalid."""
    return Action("retry_after", respond(status, {"retry-after": value}).perform, status)


def retry_after_date(form: DateForm, seconds: float, status: int = 429) -> Action:
    """Refuse with a ``Retry-After`` date that is this many seconds, or up to one more, after the answer."""

    async def perform(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # HTTP dates have whole seconds: rounding down would shorten the wait.
        date = http_date(form, math.ceil(time.time() + seconds))
        await retry_after(date, status).perform(reader, writer)

    return Action("retry_after", perform, status)


def raw(data: bytes, *, status: int | None = None, end: End = "close") -> Action:
    """Write these bytes unchanged.

    Args:
        data: the complete answer, including the status line.
        status: the status in the journal.
        end: the end of the answer. ``half_close`` needs a plain connection, since TLS does not support it.
    """
    return Action("raw", _send(data, end), status)


def reset_before_response() -> Action:
    """Read the request and reset the connection (TCP RST)."""
    return Action("reset_before_response", _send(b"", "reset"))


def reset_mid_response() -> Action:
    """Reset the connection in the middle of the status line: the client never learns the status."""
    return Action("reset_mid_response", _send(b"HTTP/1.1 2", "reset"))


def reset_after_headers(status: int = 200) -> Action:
    """Reset the connection between the head and the body: the client knows the status."""
    return Action("reset_after_headers", _send(_head(status, 100), "reset"), status)


def reset_mid_body(status: int = 200) -> Action:
    """Reset the connection in the middle of the body: the client knows the status."""
    return Action("reset_mid_body", _send(_head(status, 100) + b"half", "reset"), status)


def half_close(status: int | None = None) -> Action:
    """Stop sending (FIN) but continue to read; for plain connections only.

    Args:
        status: the status of a response that ends in the middle of its body; None sends nothing.
    """
    data = b"" if status is None else _head(status, 100) + b"half"
    return Action("half_close", _send(data, "half_close"), status)


def truncated_body(status: int = 200) -> Action:
    """Send fewer bytes than announced, and close cleanly."""
    return Action("truncated_body", _send(_head(status, 100) + b"half", "close"), status)


def surplus_body(status: int = 200, surplus: bytes | None = None) -> Action:
    """Send more bytes than announced, and keep the connection open.

    Args:
        status: the status of the answer.
        surplus: the extra bytes; by default a second answer, which the client must not match with its next request.
    """
    more = _head(200, 2) + b"ok" if surplus is None else surplus
    return Action("surplus_body", _send(_head(status, 2) + b"ok" + more, "keep"), status)


def garbage() -> Action:
    """Answer with bytes that are not HTTP."""
    return Action("garbage", _send(b"\x00\x16\x03 this is no HTTP\r\n\r\n", "close"))


def never_answer() -> Action:
    """Read the request and send nothing, until the client disconnects."""
    return Action("never_answer", _send(b"", "hold"))


def never_read() -> Action:
    """Stop reading from the client. As a receiver's ``connection``, it does not even read the request."""

    async def perform(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # uvloop's transports do not derive from `ReadTransport`.
        cast("asyncio.ReadTransport", writer.transport).pause_reading()
        await asyncio.Event().wait()

    return Action("never_read", perform)


def slow_body(bytes_per_second: float = 1, status: int = 200) -> Action:
    """Answer at once, with a body that trickles while the client reads."""
    return Action("slow_body", _repeat(_head(status, 10_000_000), b".", 1 / bytes_per_second), status)


def endless_body(status: int = 200) -> Action:
    """Answer at once, with an endless body that is sent as fast as the client reads."""
    chunk = b"%x\r\n%b\r\n" % (len(_CHUNK), _CHUNK)
    return Action("endless_body", _flood(_chunked_head(status), chunk), status)


def endless_chunks(status: int = 200) -> Action:
    """Answer at once, with an endless body in chunks of one byte that are sent as fast as the client reads."""
    return Action("endless_chunks", _flood(_chunked_head(status), b"1\r\n.\r\n"), status)


def endless_trailers(status: int = 200) -> Action:
    """Answer at once, with an empty body and endless trailers that are sent as fast as the client reads."""
    return Action("endless_trailers", _flood(_chunked_head(status) + b"0\r\n", b"x-trailer: yes\r\n"), status)


def endless_answers(status: int = 200) -> Action:
    """Answer at once, and again without end, as fast as the client reads: pipelining without requests."""
    return Action("endless_answers", _flood(b"", _head(status, 0)), status)


def slow_headers(bytes_per_second: float = 1, status: int = 200) -> Action:
    """Begin to answer at once, with a header that trickles while the client reads."""
    return Action(
        "slow_headers", _repeat(_unfinished_head(status) + b"x-slow: ", b".", 1 / bytes_per_second), status
    )


def endless_headers(status: int = 200) -> Action:
    """Begin to answer at once, with endless headers that are sent as fast as the client reads."""
    return Action("endless_headers", _flood(_unfinished_head(status), b"x-endless: yes\r\n"), status)


def endless_status_line(status: int = 200) -> Action:
    """Begin to answer at once, with an endless reason phrase that is sent as fast as the client reads."""
    return Action("endless_status_line", _flood(f"HTTP/1.1 {status} ".encode(), b"O"), status)


def huge_header(size: int = 1024 * 1024, status: int = 200) -> Action:
    """Send a proper answer with one header of ``size`` bytes."""
    return Action("huge_header", respond(status, {"x-huge": "x" * size}).perform, status)


def many_headers(count: int = 10_000, status: int = 200) -> Action:
    """Send a proper answer with ``count`` headers."""
    headers = {f"x-{number}": "x" for number in range(count)}
    return Action("many_headers", respond(status, headers).perform, status)


def interim_only(status: int = 102, end: End = "close") -> Action:
    """Send an interim answer (1xx) but no final answer."""
    return Action("interim_only", _send(_head(status, None), end), status)


def endless_interim(status: int = 102) -> Action:
    """Send endless interim answers (1xx), as fast as the client reads."""
    return Action("endless_interim", _flood(b"", _head(status, None)), status)


def bad_gzip(status: int = 200) -> Action:
    """Announce a gzip body, and send invalid gzip."""
    return Action(
        "bad_gzip", respond(status, {"content-encoding": "gzip"}, b"this is no gzip").perform, status
    )


def gzip_bomb(status: int = 200) -> Action:
    """Answer with 128 KiB of gzip that decode to 128 MiB."""

    async def perform(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await respond(status, {"content-encoding": "gzip"}, _bomb()).perform(reader, writer)

    return Action("gzip_bomb", perform, status)


@functools.cache
def _bomb() -> bytes:
    mebibyte = bytes(1024 * 1024)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    # After a full flush nothing refers to earlier data, so the same block can be repeated.
    block = deflate.compress(mebibyte) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = functools.reduce(lambda crc, _: zlib.crc32(mebibyte, crc), range(_BOMB_MIB), 0)
    head, last_block = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", b"\x03\x00"
    size = _BOMB_MIB * len(mebibyte)
    return head + block * _BOMB_MIB + last_block + struct.pack("<II", checksum, size)


def _send(data: bytes, end: End) -> Perform:
    async def perform(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if data:
            writer.write(data)
            await writer.drain()
        if end == "half_close":
            writer.write_eof()
        if end in {"half_close", "hold"}:
            while await reader.read(len(_CHUNK)):
                pass
        if end == "reset":
            # A linger time of 0 makes the kernel send RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif end != "keep":
            writer.close()

    return perform


def _repeat(first: bytes, again: bytes, pause_seconds: float = 0.0) -> Perform:
    async def perform(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.is_closing():
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause_seconds)

    return perform


def _flood(first: bytes, again: bytes) -> Perform:
    return _repeat(first, again * max(1, _FLOOD_BYTES // len(again)))


def _chunked_head(status: int) -> bytes:
    return _head(status, None, {"transfer-encoding": "chunked"})


def _head(status: int, length: int | None, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
    if length is not None and status >= HTTPStatus.OK and status != HTTPStatus.NO_CONTENT:
        lines.append(f"content-length: {length}")
    return _unfinished_head(status) + "\r\n".join([*lines, "", ""]).encode()


def _unfinished_head(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_reason(status)}\r\n".encode()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Whatever"
