"""A receiver that refuses one type of event, has outages and a capacity, and records every request.

It runs in its own process (``python -m benches.typed_receiver CONDUCT``, JSON) and prints its URL. A number on standard input is
the monotonic time at which the outages begin to count. ``count`` makes it print the number of distinct accepted events of other
types, ``requests`` all requests. The end of the input ends it.
"""

import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NamedTuple, cast

from benches.processes import piped, python
from benches.requests import Capacity, Connection, event_id

BAD = "bad"
_TYPE = re.compile(rb"\r\nce-type: *([^\r]+)", re.IGNORECASE)
_ANSWERS = {
    True: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    False: b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
}


@dataclass(frozen=True, slots=True)
class Conduct:
    """How the receiver answers. It always answers 503 to the type ``bad``, and 200 or 503 to the others.

    Attributes:
        outages: the starts and ends of times in which it answers 503 to everything, in seconds from the start.
        capacity: requests that it accepts in any second; 0 for no limit.
        failures: the share of requests that fail at random.
    """

    outages: Sequence[tuple[float, float]] = ()
    capacity: int = 0
    failures: float = 0.0


class Request(NamedTuple):
    """One request.

    Attributes:
        at: the monotonic time at which it had been read.
        event: the event's ``webhook-id``.
        is_bad: whether the event has the type ``bad``.
        is_accepted: whether the answer was 200.
    """

    at: float
    event: str
    is_bad: bool
    is_accepted: bool


class TypedReceiver:
    """A receiver in its own process.

    Attributes:
        url: its URL.
    """

    def __init__(self, commands: IO[bytes], answers: IO[bytes]) -> None:
        self._commands, self._answers = commands, answers
        self.url = answers.readline().decode().strip()

    def begin(self, at: float) -> None:
        """Count the outages from this monotonic time."""
        self._commands.write(f"{at}\n".encode())

    def count(self) -> int:
        """Return the number of distinct accepted events."""
        self._commands.write(b"count\n")
        return int(self._answers.readline())

    def requests(self) -> list[Request]:
        """Return all requests so far."""
        self._commands.write(b"requests\n")
        # The pipe has no buffer, so that a line may come in several parts.
        line = b""
        while not line.endswith(b"\n"):
            line += self._answers.readline()
        return [Request(*each) for each in json.loads(line)]


@contextlib.contextmanager
def typed_receiver(conduct: Conduct, log: Path) -> Iterator[TypedReceiver]:
    """Run a receiver during the block.

    Args:
        conduct: how it answers.
        log: file for its errors.
    """
    command = python("benches.typed_receiver", json.dumps(asdict(conduct)))
    with piped(command, log=log, variables={}) as process:
        yield TypedReceiver(cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout))


class _State:
    def __init__(self, conduct: Conduct) -> None:
        self.conduct = conduct
        self.began_at = time.monotonic()
        self.accepted: set[str] = set()
        self.requests: list[Request] = []
        self._capacity = Capacity()
        self._rng = random.Random(7)

    def accepts(self, event: str, *, is_bad: bool) -> bool:
        """Record a request; return whether it is accepted."""
        now = time.monotonic()
        is_accepted = self._has_room(now) and not is_bad and self._rng.random() >= self.conduct.failures
        self.requests.append(Request(now, event, is_bad, is_accepted))
        if is_accepted:
            self.accepted.add(event)
        return is_accepted

    def _has_room(self, now: float) -> bool:
        """Whether it is up and below its capacity. Failing requests use the capacity, too."""
        if any(start <= now - self.began_at < end for start, end in self.conduct.outages):
            return False
        return self._capacity.admits(now, self.conduct.capacity)


class _Connection(Connection):
    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state = state

    def answer(self, received: bytearray, end_of_head: int) -> None:
        found = _TYPE.search(received, 0, end_of_head)
        is_bad = found is not None and found[1] == BAD.encode()
        event = event_id(received, end_of_head).decode()
        self.transport.write(_ANSWERS[self._state.accepts(event, is_bad=is_bad)])


async def _serve(conduct: Conduct) -> None:
    loop = asyncio.get_running_loop()
    state = _State(conduct)
    server = await loop.create_server(lambda: _Connection(state), "127.0.0.1", 0, backlog=1024)
    print("http://{}:{}/".format(*server.sockets[0].getsockname()), flush=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async for line in commands:
        match line.strip():
            case b"count":
                print(len(state.accepted), flush=True)
            case b"requests":
                print(json.dumps(state.requests), flush=True)
            case number:
                state.began_at = float(number)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(Conduct(**json.loads(sys.argv[1]))))
