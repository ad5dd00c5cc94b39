"""Requests as bytes, for what no HTTP client sends, and what a server of the intake has counted of them."""

import contextlib
import json
import re
import socket
import ssl
from collections import Counter

from support import patient
from support.waiting import PATIENCE_SECONDS

_COUNT = re.compile(r"^resonant_intake_(requests|events)_total\{\w+=\"(\w+)\"\} (\d+)", re.MULTILINE)
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


def event(event_id: str) -> bytes:
    """Return an event as a line of JSON."""
    return json.dumps({"id": event_id, "source": "/raw", "type": "t", "data": 1}).encode()


def post(
    body: bytes, *headers: bytes, length: bytes | int | None = -1, target: bytes = b"/events?endpoint=orders"
) -> bytes:
    """Return a request with a body.

    Args:
        body: as it is sent.
        headers: further ones.
        length: the Content-Length; by default that of the body, and no header if it is None.
        target: the path and query.
    """
    lines = [
        b"POST " + target + b" HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Content-Type: application/cloudevents+json",
    ]
    if length is not None:
        lines.append(
            b"Content-Length: "
            + (length if isinstance(length, bytes) else b"%d" % (len(body) if length < 0 else length))
        )
    return b"\r\n".join([*lines, *headers, b"", b""]) + body


def chunks(*parts: bytes) -> bytes:
    """Return a chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def talk(
    port: int,
    request: bytes,
    *,
    tls: ssl.SSLContext | None = None,
    first: float = PATIENCE_SECONDS,
    seconds: float = 0.3,
) -> list[int]:
    """Send bytes, and return the status of each answer, until the server closes or is silent.

    Args:
        port: of the server, on 127.0.0.1.
        request: the bytes.
        tls: for a server with TLS.
        first: how long to wait for the first answer, in seconds.
        seconds: how long to wait for another one.
    """
    received = b""
    with contextlib.ExitStack() as opened:
        connection = opened.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        )
        if tls:
            connection = opened.enter_context(tls.wrap_socket(connection, server_hostname="127.0.0.1"))
        # The server may close before it has read everything.
        with contextlib.suppress(OSError):
            connection.sendall(request)
        connection.settimeout(first)
        with contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                received += data
                connection.settimeout(seconds)
    return [int(status) for status in _STATUS.findall(received) if status != b"100"]


def intake_counts(port: int) -> Counter[str]:
    """Return what a server has counted: ``requests``, and requests by status and events by outcome."""
    text = patient.get(f"http://127.0.0.1:{port}/metrics").text
    found: Counter[str] = Counter()
    for name, label, number in _COUNT.findall(text):
        found[name] += int(number) if name == "requests" else 0
        found[label] += int(number)
    return found
