"""Reading a request off the wire: its head, and its body by length or by chunks."""

from __future__ import annotations

import asyncio
import re

_REQUEST_LINE = re.compile(r"([^ ]+) ([^ ]+) HTTP/1\.[01]")
_FIELD = re.compile(r"([^\s:]+):(.*)")
_LENGTH = re.compile("[0-9]{1,18}")
# What follows a semicolon are extensions, which nobody has to know.
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?\r\n", re.DOTALL)


class BadRequest(Exception):
    """What the client sent is no request of HTTP/1.1; the text says why, and is meant for the client."""


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    """Read one request, and leave what follows it.

    Returns:
        The method, the path, the headers with names in lower case, and the body without its chunks' framing.

    Raises:
        BadRequest: it is none. Where it ends is then unknown, so nothing more can be read from the connection.
        asyncio.IncompleteReadError: the client hung up.
    """
    head = await _read_until(reader, b"\r\n\r\n")
    request_line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    if not (request := _REQUEST_LINE.fullmatch(request_line)):
        raise BadRequest("no request line")
    headers = _headers(lines)
    return request[1], request[2], headers, await _read_body(reader, headers)


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        # A space before the colon could hide how long the body is.
        if not (field := _FIELD.fullmatch(line)):
            raise BadRequest("a header that is none")
        key, value = field[1].lower(), field[2].strip(" \t")
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return headers


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "transfer-encoding" not in headers:
        length = headers.get("content-length", "0")
        if not _LENGTH.fullmatch(length):
            raise BadRequest("a content-length that is no number")
        return await reader.readexactly(int(length))
    if headers["transfer-encoding"].lower() != "chunked":
        raise BadRequest("a transfer-encoding other than chunked")
    if "content-length" in headers:
        raise BadRequest("a content-length beside a transfer-encoding")
    return await _read_chunks(reader)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := await _read_chunk_size(reader):
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise BadRequest("a chunk that is not as long as it says")
    # Trailers, which are nothing to a script.
    while await _read_until(reader, b"\r\n") != b"\r\n":
        pass
    return bytes(body)


async def _read_chunk_size(reader: asyncio.StreamReader) -> int:
    if not (size := _CHUNK_SIZE.fullmatch(await _read_until(reader, b"\r\n"))):
        raise BadRequest("a chunk size that is no number")
    return int(size[1], 16)


async def _read_until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    try:
        return await reader.readuntil(end)
    except asyncio.LimitOverrunError:
        raise BadRequest("a line or a head that is too long") from None
