"""Where input lines come from: files, pipes and standard input, read as they come, until the end or a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from resonant.errors import ResonantError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator

STDIN = "-"
# A stream that says nothing for this long, in seconds, pauses.
PAUSE_SECONDS = 0.2
_CHUNK_BYTES = 256 * 1024
# Where files of a kind that people pipe in by mistake begin.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard"}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_LOOKED_AT_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class Source:
    """An open file."""

    name: str
    fd: int

    @property
    def size(self) -> int | None:
        """The bytes of a file; None of what has no end yet."""
        status = os.fstat(self.fd)
        return status.st_size if stat.S_ISREG(status.st_mode) else None


@dataclass(slots=True)
class Interruption:
    """Which signal asked for an end, if one did; ``woken`` ends a wait for input."""

    signal: signal.Signals | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)


@contextmanager
def noted_signals() -> Iterator[Interruption]:
    """Note the first SIGINT or SIGTERM instead of obeying it, so that what was read can be stored; obey the second."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    loop = asyncio.get_running_loop()
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    # A shell lets its background jobs ignore SIGINT.
    handlers = {each: handler for each, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for each, handler in handlers.items():
            loop.remove_signal_handler(each)
            signal.signal(each, handler)

    def note(received: signal.Signals) -> None:
        interruption.signal = received
        interruption.woken.set()
        restore()

    for each in handlers:
        loop.add_signal_handler(each, note, each)
    try:
        yield interruption
    finally:
        restore()


async def chunks(source: Source, interruption: Interruption) -> AsyncGenerator[bytes, None]:
    """Yield what the source holds as it comes; an empty chunk says that it pauses. The last line gets an end.

    A signal ends it too; a line that has no end then is left out.
    """
    waits, ended = source.size is None, True
    while interruption.signal is None:
        if waits and not await _readable(source.fd, PAUSE_SECONDS, interruption):
            yield b""
            if not await _readable(source.fd, None, interruption):
                return
        try:
            chunk = os.read(source.fd, _CHUNK_BYTES)
        except OSError as error:
            raise ResonantError(f"{source.name}: {error.strerror}") from None
        if not chunk:
            if not ended:
                yield b"\n"
            return
        ended = chunk.endswith(b"\n")
        yield chunk
        await asyncio.sleep(0)  # a file of nothing but bad lines can be interrupted too


async def _readable(fd: int, timeout_seconds: float | None, interruption: Interruption) -> bool:
    """Wait until there is something to read, or the end; return False when the time is over or a signal came."""
    loop, woken = asyncio.get_running_loop(), interruption.woken
    if interruption.signal is not None:
        return False
    woken.clear()
    try:
        loop.add_reader(fd, woken.set)
    except PermissionError:
        return True  # devices like /dev/null are always ready, and epoll does not take them
    try:
        async with asyncio.timeout(timeout_seconds):
            await woken.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return interruption.signal is None


def what_is_wrong(beginning: bytes) -> str | None:
    """Say what a file looks like that cannot be JSON lines, by its first bytes; None where it may be."""
    for magic, name in _COMPRESSED.items():
        if beginning.startswith(magic):
            return f"looks like a file compressed with {name}: decompress it first"
    if b"\0" not in beginning[:_LOOKED_AT_BYTES]:
        return None
    if beginning.startswith(_UTF_16):
        return "looks like UTF-16: convert it to UTF-8 first, as `iconv -f UTF-16 -t UTF-8` does"
    return "looks like a binary file: JSON lines are UTF-8 text, one event a line"


def check_readable(paths: Iterable[str]) -> None:
    """Open each file once, before anything slow is done; not a named pipe, whose writer would see its reader go.

    Raises:
        ResonantError: one cannot be read.
    """
    for path in paths:
        if path != STDIN and not Path(path).is_fifo():
            with opened(path):
                pass


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """Open a file, or standard input.

    Raises:
        ResonantError: it cannot be read.
    """
    if path == STDIN:
        if sys.stdin is None:
            raise ResonantError("standard input is closed")
        yield Source("stdin", sys.stdin.fileno())
        return
    try:
        file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - `with` below closes it
    except OSError as error:
        raise ResonantError(f"{path}: {error.strerror}") from None
    with file:
        yield Source(path, file.fileno())
