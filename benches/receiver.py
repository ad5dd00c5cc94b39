"""A receiver that uses little CPU: it reads a request to its end, answers, and keeps the connection.

It answers 200 or, on request, 503 to the first attempt of a share of the events, which it identifies by ``webhook-id``.

Run in its own process (``python -m benches.receiver``), it prints its URL, and ends when its standard input does. An input line
``EVENTS FAULTS`` begins a count, which is printed as JSON when that many distinct events have been accepted; an empty line
prints it at once, and ``arrivals`` prints the time at which each event of the count arrived first.
"""

import asyncio
import contextlib
import json
import select
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO, cast

from benches.requests import Connection, event_id

_ACCEPTED = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class NotReceived(Exception):
    """Not all expected events arrived in time."""


@dataclass(slots=True)
class Receipts:
    """The requests since a count began.

    Attributes:
        events: the number of distinct accepted events.
        requests: all requests.
        refused: requests that were answered 503.
        first_at: the monotonic time when the first request had been read, in seconds.
        last_at: the monotonic time when the last new event had been read, in seconds.
    """

    events: int = 0
    requests: int = 0
    refused: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def duplicates(self) -> int:
        """Requests for events that were already accepted."""
        return self.requests - self.refused - self.events


class Receiver:
    """A receiver in its own process.

    Attributes:
        url: its URL.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._commands = cast("IO[bytes]", process.stdin)
        self._answers = cast("IO[bytes]", process.stdout)
        self.url = self._answers.readline().decode().strip()

    def expect(self, events: int, *, faults: float = 0.0) -> None:
        """Begin a count; the first attempt of this share (0 to 1) of the events is answered 503."""
        self._command(f"{events} {faults}")
        self._answers.readline()  # it counts from now on

    def wait(self, seconds: float) -> Receipts:
        """Wait until all expected events have been accepted.

        Raises:
            NotReceived: they did not arrive in time.
        """
        if not select.select([self._answers], [], [], seconds)[0]:
            raise NotReceived(f"after {seconds:.0f} s, the receiver has only: {self.so_far()}")
        return self._read()

    def so_far(self) -> Receipts:
        """Return the current count."""
        self._command("")
        return self._read()

    def arrivals(self) -> dict[str, float]:
        """Return the monotonic time when each accepted event of the count was first read."""
        self._command("arrivals")
        found: dict[str, float] = json.loads(self._answers.readline())
        return found

    def _command(self, text: str) -> None:
        self._commands.write(f"{text}\n".encode())
        self._commands.flush()

    def _read(self) -> Receipts:
        return Receipts(**json.loads(self._answers.readline()))


@contextlib.contextmanager
def counting_receiver() -> Iterator[Receiver]:
    """Run a receiver during the block."""
    command = [sys.executable, "-m", "benches.receiver"]
    # Unbuffered, so that select sees all of its output.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        yield Receiver(process)
        cast("IO[bytes]", process.stdin).close()


class _Count:
    """Counts requests, and chooses their answers."""

    def __init__(self, expected: int, faults: float) -> None:
        self.receipts = Receipts()
        self._expected = expected
        self._faults = faults * 2**32
        self._failed: set[bytes] = set()
        self._accepted: dict[bytes, float] = {}

    def answer(self, head: bytearray, end: int) -> bytes:
        receipts = self.receipts
        receipts.requests += 1
        if receipts.requests == 1:
            receipts.first_at = time.monotonic()
        id_ = event_id(head, end)
        if self._faults and id_ not in self._failed and zlib.crc32(id_) < self._faults:
            self._failed.add(id_)
            receipts.refused += 1
            return _REFUSED
        if id_ not in self._accepted:
            receipts.events += 1
            self._accepted[id_] = receipts.last_at = time.monotonic()
            if receipts.events == self._expected:
                self.say()
        return _ACCEPTED

    def say(self) -> None:
        print(json.dumps(asdict(self.receipts)), flush=True)

    def say_arrivals(self) -> None:
        print(json.dumps({id_.decode(): at for id_, at in self._accepted.items()}), flush=True)


class _Connection(Connection):
    count: _Count | None = None

    def answer(self, received: bytearray, end_of_head: int) -> None:
        count = _Connection.count
        self.transport.write(count.answer(received, end_of_head) if count else _ACCEPTED)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    print("http://{}:{}/".format(*server.sockets[0].getsockname()), flush=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async for line in commands:
        if _Connection.count is not None and line.strip() == b"arrivals":
            _Connection.count.say_arrivals()
        elif values := line.split():
            _Connection.count = _Count(int(values[0]), float(values[1]))
            print("counting", flush=True)
        elif _Connection.count is not None:
            _Connection.count.say()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve())
