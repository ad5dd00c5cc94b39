"""A recorded request in a file, as ``resonant source test`` reads it."""

import re

from starlette.datastructures import Headers

from resonant.intake.sources.templates import Received

_REQUEST_LINE = re.compile(rb"POST (?P<target>\S+)(?: HTTP/[0-9.]+)?\r?\n")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\r?\Z")


def read_request(content: bytes) -> tuple[Received, str]:
    """Return a request and its query.

    Args:
        content: a request line (optional), headers, an empty line and the body, as they are sent. The body ends after the
            number of bytes in ``Content-Length``, if there is one.

    Raises:
        ValueError: the content is not a request.
    """
    first = _REQUEST_LINE.match(content)
    query = first["target"].partition(b"?")[2].decode("latin-1") if first else ""
    head, blank, body = (content[first.end() :] if first else content).partition(b"\n\r\n")
    if not blank or b"\n\n" in head:
        head, blank, body = (content[first.end() :] if first else content).partition(b"\n\n")
    if not blank:
        raise ValueError("must be headers, an empty line and the body of a request")
    raw = []
    for line in head.split(b"\n"):
        if not (found := _HEADER.match(line)):
            raise ValueError(f"{line[:40]!r} is not a header")
        raw.append((found[1].lower(), found[2]))
    headers = Headers(raw=raw)
    if (length := headers.get("content-length", "")).isdecimal():
        body = body[: int(length)]
    return Received(headers, body), query
