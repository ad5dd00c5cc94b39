"""Reads HTTP requests from a persistent connection, with little CPU."""

import asyncio
import re
from abc import ABC, abstractmethod
from collections import deque
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id: *([^\r]+)", re.IGNORECASE)


def event_id(received: bytearray, end_of_head: int) -> bytes:
    """Return the ``webhook-id`` of a request; empty without one."""
    found = _ID.search(received, 0, end_of_head)
    return found[1] if found else b""


class Capacity:
    """The requests that a receiver has accepted in the last second."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque()

    def admits(self, now: float, most: int) -> bool:
        """Return whether one more request fits into a second, which takes its place; 0 for no limit."""
        if not most:
            return True
        while self._taken and self._taken[0] <= now - 1:
            self._taken.popleft()
        if len(self._taken) >= most:
            return False
        self._taken.append(now)
        return True


class Connection(asyncio.Protocol, ABC):
    """Reads each request to its end, and then calls ``answer``.

    Attributes:
        transport: the connection's transport.
    """

    def __init__(self) -> None:
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._received += data
        while (end_of_head := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end_of_head)
            end = end_of_head + 4 + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            self.answer(self._received, end_of_head)
            del self._received[:end]

    @abstractmethod
    def answer(self, received: bytearray, end_of_head: int) -> None:
        """Answer the request at the start of ``received``."""
