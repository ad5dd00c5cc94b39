"""Reads the body of a request within its limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from resonant.intake.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request


async def read_body(request: Request, *, most_bytes: int, seconds: float) -> bytes:
    """Return the body.

    Raises:
        Problem: 413, it is too large, which its head may already say; 408, it takes too long; 415, it is encoded.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise Problem(
            415,
            f"Content-Encoding: {encoding:.40} is not accepted: send the body as it is",
            headers={"Accept-Encoding": "identity"},
        )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise _too_large(most_bytes)
    try:
        async with asyncio.timeout(seconds):
            return await _read(request, most_bytes)
    except TimeoutError:
        raise Problem(
            408, f"the body did not arrive within {seconds:g} seconds", headers={"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise Problem(400, "the connection ended before the body") from None


async def _read(request: Request, most_bytes: int) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most_bytes:
            raise _too_large(most_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(most_bytes: int) -> Problem:
    return Problem(
        413,
        f"the body is larger than {most_bytes:,} bytes: send less in one request",
        headers={"Connection": "close"},
        limit=most_bytes,
    )
