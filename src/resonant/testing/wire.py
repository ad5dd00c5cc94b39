"""Reads an HTTP request: the head, and a body with a length or in chunks."""

import asyncio
import re

_REQUEST_LINE = re.compile(r"([^ ]+) ([^ ]+) HTTP/1\.[01]")
_FIELD = re.compile(r"([^\s:]+):(.*)")
_LENGTH = re.compile("[0-9]{1,18}")
# Extensions after the semicolon may be ignored.
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?\r\n", re.DOTALL)


class BadRequest(Exception):
    """The client did not send a valid HTTP/1.1 request; the message says why."""


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    """Read one request, and leave the bytes after it unread.

    Returns:
        The method, the path, the headers with names in lower case, and the body without chunk framing.

    Raises:
        BadRequest: invalid request. Its end is unknown, so nothing more can be read from the connection.
        asyncio.IncompleteReadError: the client disconnected.
    """
    head = await _read_until(reader, b"\r\n\r\n")
    request_line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    if not (request := _REQUEST_LINE.fullmatch(request_line)):
        raise BadRequest("invalid request line")
    headers = _headers(lines)
    return request[1], request[2], headers, await _read_body(reader, headers)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        # A space before the colon could hide the body's length.
        if not (field := _FIELD.fullmatch(line)):
            raise BadRequest("invalid header")
        key, value = field[1].lower(), field[2].strip(" \t")
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "transfer-encoding" not in headers:
        length = headers.get("content-length", "0")
        if not _LENGTH.fullmatch(length):
            raise BadRequest("content-length is not a number")
        return await reader.readexactly(int(length))
    if headers["transfer-encoding"].lower() != "chunked":
        raise BadRequest("unsupported transfer-encoding: only chunked is accepted")
    if "content-length" in headers:
        raise BadRequest("content-length and transfer-encoding cannot be combined")
    return await _read_chunks(reader)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := await _read_chunk_size(reader):
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise BadRequest("a chunk has the wrong length")
    # Skip the trailers: scripts do not see them.
    while await _read_until(reader, b"\r\n") != b"\r\n":
        pass
    return bytes(body)


async def _read_chunk_size(reader: asyncio.StreamReader) -> int:
    if not (size := _CHUNK_SIZE.fullmatch(await _read_until(reader, b"\r\n"))):
        raise BadRequest("chunk size is not a number")
    return int(size[1], 16)


async def _read_until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    try:
        return await reader.readuntil(end)
    except asyncio.LimitOverrunError:
        raise BadRequest("line or head too long") from None
