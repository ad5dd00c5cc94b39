"""Read input from files, pipes and standard input, until the end or a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from resonant.cli.options import Misuse
from resonant.errors import ResonantError

STDIN = "-"
# A stream pauses when nothing arrives for this long.
PAUSE_SECONDS = 0.2
_CHUNK_BYTES = 256 * 1024
# The first bytes of files that people pipe in by mistake.
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
        """The size of a regular file in bytes; None for a stream."""
        status = os.fstat(self.fd)
        return status.st_size if stat.S_ISREG(status.st_mode) else None


@dataclass(slots=True)
class Interruption:
    """The signal that was received, if any; ``woken`` ends a wait for input."""

    signal: signal.Signals | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)


@contextmanager
def noted_signals() -> Iterator[Interruption]:
    """Record the first SIGINT or SIGTERM instead of ending, so that the lines read so far can be stored."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    loop = asyncio.get_running_loop()
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    # Shells start background jobs with SIGINT ignored.
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
    """Yield chunks as they arrive, and an empty chunk when the source pauses.

    A missing line end is added at the end of the source, but not after a signal.
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
        await asyncio.sleep(0)  # lets signals be handled if no line causes a write


async def _readable(fd: int, timeout_seconds: float | None, interruption: Interruption) -> bool:
    """Wait until the file is readable or at its end; return False on a timeout or a signal."""
    loop, woken = asyncio.get_running_loop(), interruption.woken
    if interruption.signal is not None:
        return False
    woken.clear()
    try:
        loop.add_reader(fd, woken.set)
    except PermissionError:
        return True  # epoll refuses regular files and devices such as /dev/null, which are always ready
    try:
        async with asyncio.timeout(timeout_seconds):
            await woken.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return interruption.signal is None


def what_is_wrong(beginning: bytes) -> str | None:
    """Describe a file whose first bytes cannot be JSON lines; return None for any other file."""
    for magic, name in _COMPRESSED.items():
        if beginning.startswith(magic):
            return f"looks like a file compressed with {name}: decompress it first"
    if b"\0" not in beginning[:_LOOKED_AT_BYTES]:
        return None
    if beginning.startswith(_UTF_16):
        return "looks like UTF-16: convert it to UTF-8 first, for example with `iconv -f UTF-16 -t UTF-8`"
    return "looks like a binary file: JSON lines are UTF-8 text, one event per line"


def check_readable(paths: Iterable[str]) -> None:
    """Check that each file can be opened. Named pipes are skipped: closing one would break its writer.

    Raises:
        Misuse: a file cannot be read.
    """
    for path in paths:
        if path != STDIN and not Path(path).is_fifo():
            try:
                with opened(path):
                    pass
            except ResonantError as error:
                raise Misuse(str(error)) from None


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """Open a file or standard input.

    Raises:
        ResonantError: the file cannot be read.
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
