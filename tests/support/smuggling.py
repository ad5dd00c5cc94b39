"""Requests that two servers may read differently, so that one of them sees a second request within the first.

Each has the event ``outer``, and hides a request with the event ``smuggled``.
"""

from support.raw_http import chunks, event, post

OUTER = event("outer")
SMUGGLED = post(event("smuggled"))
_CHUNKED = b"Transfer-Encoding: chunked"
_LAST = b"0\r\n\r\n"


def _te(*headers: bytes, length: bytes | int | None = -1) -> bytes:
    """Return a request with these headers, whose body is a chunked one that ends before the hidden request."""
    return post(chunks(OUTER) + SMUGGLED, *headers, length=length)


def _chunk(size: bytes, after: bytes = b"\r\n") -> bytes:
    """Return a chunked request with this text as the size of its chunk."""
    return post(size + OUTER + after + _LAST + SMUGGLED, _CHUNKED, length=None)


_SIZE = b"%x" % len(OUTER)

# A request with Content-Length and Transfer-Encoding, and spellings of Transfer-Encoding that some servers ignore.
_SPELLINGS = (
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding : chunked",
    b" Transfer-Encoding: chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: CHUNKED",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding\n: chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
)
AMBIGUOUS: dict[str, bytes] = {
    "CL.TE": _te(_CHUNKED),
    "TE.CL": post(chunks(OUTER, SMUGGLED), _CHUNKED, length=4),
    "CL.TE Transfer_Encoding": _te(b"Transfer_Encoding: chunked"),
    "CL.0": post(SMUGGLED, target=b"/healthz"),
    "1.0 TE": _te(_CHUNKED, length=None).replace(b"HTTP/1.1", b"HTTP/1.0\r\nConnection: keep-alive", 1),
    "upgrade": post(
        OUTER + SMUGGLED,
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    ),
    **{f"CL.TE {spelling!r}": _te(spelling) for spelling in _SPELLINGS},
    **{f"TE.0 {spelling!r}": post(SMUGGLED, spelling, length=None) for spelling in _SPELLINGS},
}
# Chunks whose size or end some servers read differently.
CHUNKS: dict[str, bytes] = {
    f"chunk {name}": request
    for name, request in {
        "negative": _chunk(b"-1\r\n"),
        "plus": _chunk(b"+" + _SIZE + b"\r\n"),
        "0x": _chunk(b"0x" + _SIZE + b"\r\n"),
        "space": _chunk(_SIZE + b" \r\n"),
        "before": _chunk(b" " + _SIZE + b"\r\n"),
        "huge": _chunk(b"f" * 17 + b"\r\n"),
        "wraps": _chunk(b"1" + b"0" * 15 + _SIZE + b"\r\n"),
        "empty": _chunk(b"\r\n"),
        "bare LF": _chunk(_SIZE + b"\n"),
        "bare CR": _chunk(_SIZE + b"\r"),
        "LF in extension": _chunk(_SIZE + b";a\nb\r\n"),
        "CR in extension": _chunk(_SIZE + b";a\rb\r\n"),
        "extension": _chunk(_SIZE + b';a="\r\n'),
        "no end": _chunk(_SIZE + b"\r\n", after=b""),
        "LF end": _chunk(_SIZE + b"\r\n", after=b"\n"),
        "other end": _chunk(_SIZE + b"\r\n", after=b"XX"),
        "trailer": post(chunks(OUTER)[:-2] + b"Content-Length: 5\r\nce-id: x\r\n\r\n", _CHUNKED, length=None),
    }.items()
}
# Lengths that are not one number, or not that of the body.
LENGTHS: dict[str, bytes] = {
    f"length {value!r}": post(OUTER + SMUGGLED, length=value)
    for value in (
        b"-1", b"+%d" % len(OUTER), b"%d, %d" % (len(OUTER), len(OUTER)), b"%d,%d" % (len(OUTER), 0), b"0x10", b"1e2",
        b"1_0", b"", b"a", b"9" * 30, b"18446744073709551616", b"%d\x00" % len(OUTER), b"%d\r\nContent-Length: 0" % len(OUTER),
        b"0\r\nContent-Length: %d" % len(OUTER), b"%d\r\n 0" % len(OUTER), b"\xd9\xa3",
    )
}  # fmt: skip
# Heads that are not HTTP/1.1.
HEADS: dict[str, bytes] = {
    "bare LF": SMUGGLED.replace(b"\r\n", b"\n"),
    "bare CR": SMUGGLED.replace(b"\r\n", b"\r"),
    "no host": SMUGGLED.replace(b"Host: 127.0.0.1\r\n", b""),
    "two hosts": SMUGGLED.replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\nHost: evil.example.com"),
    "NUL in header": SMUGGLED.replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\nX: a\x00b"),
    "no colon": SMUGGLED.replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\nX"),
    "empty name": SMUGGLED.replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\n: x"),
    "folded": SMUGGLED.replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\nX: a\r\n b"),
    "space in target": SMUGGLED.replace(b"/events", b"/events /x"),
    "no version": SMUGGLED.replace(b" HTTP/1.1", b""),
    "HTTP/2.0": SMUGGLED.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "HTTP/1.1x": SMUGGLED.replace(b"HTTP/1.1", b"HTTP/1.1x"),
    "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
}
