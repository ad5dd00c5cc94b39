"""Reads the body of a request within its limit."""

from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from resonant.intake.problems import Problem


async def read_body(request: Request, *, most_bytes: int, charge: Callable[[int], None]) -> bytes:
    """Return the body.

    Args:
        request: has the body.
        most_bytes: its largest size.
        charge: called once with the size of the body, and before reading it if the headers declare the size; may raise
            ``Problem``.

    Raises:
        Problem: 413, it is too large, which its head may already say; 415, it is compressed.
    """
    encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
    if encoding.strip().lower() != "identity":
        raise Problem(
            415,
            f"Content-Encoding {encoding!r:.40} is not accepted: send the body as it is",
            headers={"Accept-Encoding": "identity"},
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal():
        if int(declared) > most_bytes:
            raise _too_large(most_bytes)
        charge(int(declared))
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most_bytes:
                raise _too_large(most_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise Problem(400, "the connection ended before the body") from None
    if not declared.isdecimal():
        charge(size)
    return b"".join(chunks)


def _too_large(most_bytes: int) -> Problem:
    return Problem(
        413, f"the body has more than {most_bytes:,} bytes: send fewer or smaller events", limit=most_bytes
    )
