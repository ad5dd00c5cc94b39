"""A receiver that is down at first, or misbehaves, and records every request.

It runs in its own process (``python -m benches.outage_receiver BEHAVIOUR``, JSON) and prints its URL. A line with a number
on standard input makes it listen after that many seconds, an empty line makes it print its records, and the end of the
input ends it.
"""

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO, Literal, cast

from benches.requests import Capacity, Connection, event_id

Kind = Literal["works", "slow", "503", "429", "410", "reset", "hang", "refuse"]

_ANSWERS = {
    "works": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "503": b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n",
    "410": b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n",
}
_SLOW_SECONDS = 1.0
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The receiver's behaviour.

    Attributes:
        kind: ``works``, ``slow`` (it accepts after a second), a status code for every request, or a fault of every connection.
        capacity: requests that it accepts in any second; it answers 503 to more. 0 for no limit.
        ends_after: seconds of misbehaviour after it begins to listen; 0 for no end.
    """

    kind: Kind = "works"
    capacity: int = 0
    ends_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Notes:
    """The receiver's records.

    Attributes:
        requests: the number of requests in each whole second since it began to listen.
        accepted: the number of distinct accepted events.
        listening_at: the monotonic time when it began to listen.
        last_at: the monotonic time when the last event was first accepted; 0 for none.
    """

    requests: dict[int, int]
    accepted: int
    listening_at: float
    last_at: float

    @property
    def total(self) -> int:
        """The total number of requests."""
        return sum(self.requests.values())

    @property
    def peak(self) -> int:
        """The requests of the busiest second."""
        return max(self.requests.values(), default=0)


class OutageReceiver:
    """A receiver in its own process.

    Attributes:
        url: its URL, even before it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._commands = cast("IO[bytes]", process.stdin)
        self._answers = cast("IO[bytes]", process.stdout)
        self.url = self._answers.readline().decode().strip()

    def listen_after(self, seconds: float) -> None:
        """Make it listen after this many seconds."""
        self._commands.write(f"{seconds}\n".encode())
        self._commands.flush()

    def notes(self) -> Notes:
        """Return its records so far."""
        self._commands.write(b"\n")
        self._commands.flush()
        fields = json.loads(self._answers.readline())
        fields["requests"] = {int(second): number for second, number in fields["requests"].items()}
        return Notes(**fields)


@contextlib.contextmanager
def outage_receiver(behaviour: Behaviour) -> Iterator[OutageReceiver]:
    """Run a receiver during the block."""
    command = [sys.executable, "-m", "benches.outage_receiver", json.dumps(asdict(behaviour))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield OutageReceiver(process)
        finally:
            cast("IO[bytes]", process.stdin).close()


class _State:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: Counter[int] = Counter()
        self.accepted: set[bytes] = set()
        self.listening_at = self.last_at = 0.0
        self._capacity = Capacity()

    @property
    def kind(self) -> Kind:
        behaviour = self.behaviour
        is_over = behaviour.ends_after and time.monotonic() - self.listening_at >= behaviour.ends_after
        return "works" if is_over else behaviour.kind

    def answer(self, event_id: bytes) -> bytes | None:
        """Record a request; return the answer, or None for no answer."""
        now = time.monotonic()
        self.requests[int(now - self.listening_at)] += 1
        if self.kind not in ("works", "slow"):
            return _ANSWERS.get(self.kind)
        if not self._capacity.admits(now, self.behaviour.capacity):
            return _ANSWERS["503"]
        if event_id not in self.accepted:
            self.accepted.add(event_id)
            self.last_at = now
        return _ANSWERS["works"]

    def say(self) -> None:
        notes = Notes(dict(self.requests), len(self.accepted), self.listening_at, self.last_at)
        print(json.dumps(asdict(notes)), flush=True)


class _Connection(Connection):
    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state = state

    def answer(self, received: bytearray, end_of_head: int) -> None:
        answer = self._state.answer(event_id(received, end_of_head))
        if answer is not None and self._state.kind == "slow":
            asyncio.get_running_loop().call_later(_SLOW_SECONDS, self.transport.write, answer)
        elif answer is not None:
            self.transport.write(answer)
        elif self._state.kind == "reset":
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()


async def _serve(behaviour: Behaviour) -> None:
    loop = asyncio.get_running_loop()
    state = _State(behaviour)
    # Bound to reserve the port, but not listening, so that connections are refused.
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    host, port = bound.getsockname()
    print(f"http://{host}:{port}/", flush=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    async def listen(seconds: float) -> None:
        await asyncio.sleep(seconds)
        state.listening_at = time.monotonic()
        await loop.create_server(lambda: _Connection(state), sock=bound, backlog=1024)

    listening: asyncio.Task[None] | None = None
    async for line in commands:
        if not line.strip():
            state.say()
        elif listening is None and behaviour.kind != "refuse":
            listening = asyncio.create_task(listen(float(line)))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(Behaviour(**json.loads(sys.argv[1]))))
