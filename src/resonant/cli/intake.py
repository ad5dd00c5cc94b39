"""Storing the events of JSONL files: as a stream, in batches, a bad line reported and the good ones kept."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonant.cli import output
from resonant.errors import InvalidEvent, ResonantError
from resonant.events import parse_event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from resonant.events import Event
    from resonant.store import Accepted, Store

    Enqueue = Callable[[list[Event]], Coroutine[Any, Any, Accepted]]

STDIN = "-"
BATCH_LINES, BATCH_BYTES = 1_000, 8 * 1024 * 1024
# A stream that says nothing for this long, in seconds, has what it said so far stored.
PAUSE_SECONDS = 0.2
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the lines.

    Attributes:
        stored: deliveries accepted now.
        known: deliveries accepted before.
        bad: lines that are no events, or whose id is known with other content.
    """

    stored: int = 0
    known: int = 0
    bad: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    """Events on their way to the store; ``places`` says where each object came from, as ``FILE:LINE``."""

    events: list[Event] = field(default_factory=list)
    places: dict[int, str] = field(default_factory=dict)

    def add(self, event: Event, place: str) -> None:
        self.events.append(event)
        self.places[id(event)] = place


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    fd: int

    @property
    def size(self) -> int | None:
        """The bytes of a file; None of what has no end yet."""
        status = os.fstat(self.fd)
        return status.st_size if stat.S_ISREG(status.st_mode) else None


@dataclass(frozen=True, slots=True)
class _Progress:
    """``report`` writes a line on standard error, ``advance`` moves the bar, if there is one, by bytes read."""

    report: Callable[[str], None]
    advance: Callable[[int], None]


class _NothingStored(Exception):
    """A bad line under ``strict``: it rolls the transaction back."""


async def store_files(
    store: Store,
    paths: Sequence[str],
    endpoint: str,
    *,
    max_event_bytes: int,
    event_type: str | None = None,
    policy: str | None = None,
    max_attempts: int | None = None,
    strict: bool = False,
) -> Summary:
    """Store the events of these files for one endpoint; bad lines are reported on standard error.

    A batch is stored when it has 1,000 lines or 8 MiB, and when a pipe pauses. A line may be four times as long as
    the largest event and 64 KiB more (what ASCII escapes and the attributes can make of it); a longer one is bad, and
    never in memory.

    Args:
        paths: JSONL files; ``-`` is standard input. All are opened before anything is stored.
        endpoint: the endpoint's name.
        max_event_bytes: the largest body of an event.
        event_type: the type of lines that have none.
        policy: a retry policy's name, kept with the deliveries.
        max_attempts: an override of the policy's, kept with the deliveries.
        strict: store everything in one transaction, and nothing if any line is bad; writers wait for each other
            meanwhile on SQLite.

    Raises:
        ResonantError: a file cannot be read, or the store cannot write; the text says how much was stored before.
        asyncio.CancelledError: with a text that says how much was stored before.
    """
    options = {"policy": policy, "max_attempts": max_attempts, "report_conflicts": True}
    with ExitStack() as stack:
        sources = [stack.enter_context(_opened(path)) for path in paths]
        progress = stack.enter_context(_progress(sources))
        counts = _Counts(strict=strict)
        parse = partial(parse_event, default_type=event_type, max_bytes=max_event_bytes)
        reader = _Reader(parse, progress, counts, longest_line=4 * max_event_bytes + 64 * 1024)
        try:
            async with (
                _enqueueing(store, endpoint, options, strict=strict) as enqueue,
                aclosing(reader.batches(sources)) as batches,
            ):
                async for batch in batches:
                    await _store_batch(batch, enqueue, progress, counts)
                if strict:
                    counts.refuse_bad()
        except _NothingStored:
            return Summary(bad=counts.bad)
        except ResonantError as error:
            raise type(error)(f"{error}; {counts.so_far()}") from None
        except asyncio.CancelledError as stop:
            stop.args = (f"interrupted; {counts.so_far()}",)
            raise
        return Summary(counts.stored, counts.known, counts.bad)


def check_readable(paths: Sequence[str]) -> None:
    """Open each file once, before anything slow is done; not a named pipe, whose writer would see its reader go.

    Raises:
        ResonantError: one cannot be read.
    """
    for path in paths:
        if path != STDIN and not Path(path).is_fifo():
            with _opened(path):
                pass


@dataclass(slots=True)
class _Counts:
    strict: bool
    stored: int = 0
    known: int = 0
    bad: int = 0

    def refuse_bad(self) -> None:
        if self.bad:
            raise _NothingStored

    def so_far(self) -> str:
        """Say what is stored when it ends early."""
        if self.strict:
            return "nothing was stored (--strict)"
        return (
            f"{output.counted(self.stored, 'event')} stored before, which stay: "
            "running this again is safe for lines that have an id"
        )


@asynccontextmanager
async def _enqueueing(
    store: Store, endpoint: str, options: dict[str, Any], *, strict: bool
) -> AsyncIterator[Enqueue]:
    """Give a way to store events: each batch in a transaction of its own, or all of them in one."""
    if not strict:
        yield lambda events: store.enqueue(events, endpoint, **options)
        return
    from resonant.store import enqueue

    async with store.transaction() as transaction:
        yield lambda events: transaction.run_sync(enqueue, events, endpoint, now=store.clock(), **options)


async def _store_batch(batch: _Batch, enqueue: Enqueue, progress: _Progress, counts: _Counts) -> None:
    writing = asyncio.ensure_future(enqueue(batch.events))
    try:
        await asyncio.shield(writing)
    finally:
        # Also on Ctrl-C: the batch in hand is waited for, so that the counts are true.
        accepted = await writing
        counts.stored += accepted.accepted
        counts.known += accepted.known
        counts.bad += len(accepted.conflicts)
        conflicts = {id(conflict.given): conflict for conflict in accepted.conflicts}
        for key, place in batch.places.items():
            if key in conflicts:
                progress.report(f"{place}: {conflicts[key]}")


class _Reader:
    """Makes batches of events of what it reads; lines that are no events are reported and counted."""

    def __init__(
        self, parse: Callable[[bytes], Event], progress: _Progress, counts: _Counts, *, longest_line: int
    ) -> None:
        self._parse = parse
        self._progress = progress
        self._counts = counts
        self._longest_line = longest_line

    async def batches(self, sources: Sequence[_Source]) -> AsyncGenerator[_Batch, None]:
        batch, size = _Batch(), 0
        for source in sources:
            splitter = _Splitter(self._longest_line)
            async with aclosing(_chunks(source)) as chunks:
                async for chunk in chunks:
                    self._progress.advance(len(chunk))
                    for number, line in splitter.split(chunk):
                        size += self._read_line(batch, f"{source.name}:{number}", line)
                        if len(batch.events) >= BATCH_LINES or size >= BATCH_BYTES:
                            yield batch
                            batch, size = _Batch(), 0
                    if batch.events and not chunk:
                        yield batch
                        batch, size = _Batch(), 0
        if batch.events:
            yield batch

    def _read_line(self, batch: _Batch, place: str, line: bytes | None) -> int:
        """Add a line's event to the batch, and return its size in bytes."""
        if line is None:
            self._refuse(
                place, f"longer than {self._longest_line:,} bytes (RESONANT_MAX_EVENT_BYTES raises the limit)"
            )
        elif line and not line.isspace():
            try:
                batch.add(self._parse(line), place)
            except InvalidEvent as error:
                self._refuse(place, str(error))
            else:
                return len(line)
        return 0

    def _refuse(self, place: str, reason: str) -> None:
        self._counts.bad += 1
        self._progress.report(f"{place}: {reason}")


class _Splitter:
    """Makes lines of chunks, and never holds more than ``longest`` bytes of one."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._number = 1
        self._rest = b""
        self._too_long = False

    def split(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the numbers, from 1, and the lines that this chunk ends; None is one that is too long."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield self._number, None if self._too_long or len(line) > self._longest else line
            self._number, self._too_long = self._number + 1, False
        if self._too_long or len(self._rest) > self._longest:
            self._rest, self._too_long = b"", True


async def _chunks(source: _Source) -> AsyncGenerator[bytes, None]:
    """Yield what the source holds as it comes; an empty chunk says that it pauses. The last line gets an end."""
    waits, ended = source.size is None, True
    while True:
        if waits and not await _readable(source.fd, PAUSE_SECONDS):
            yield b""
            await _readable(source.fd, None)
        try:
            chunk = os.read(source.fd, _CHUNK_BYTES)
        except OSError as error:
            raise ResonantError(f"{source.name}: {error.strerror}") from None
        if not chunk:
            break
        ended = chunk.endswith(b"\n")
        yield chunk
        await asyncio.sleep(0)  # a file of nothing but bad lines can be interrupted too
    if not ended:
        yield b"\n"


async def _readable(fd: int, timeout_seconds: float | None) -> bool:
    """Wait until there is something to read, or the end; return False when the time is over."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:
        return True  # devices like /dev/null are always ready, and epoll does not take them
    try:
        async with asyncio.timeout(timeout_seconds):
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fd)
    return True


@contextmanager
def _opened(path: str) -> Iterator[_Source]:
    if path == STDIN:
        if sys.stdin is None:
            raise ResonantError("standard input is closed")
        yield _Source("stdin", sys.stdin.fileno())
        return
    try:
        file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - `with` below closes it
    except OSError as error:
        raise ResonantError(f"{path}: {error.strerror}") from None
    with file:
        yield _Source(path, file.fileno())


@contextmanager
def _progress(sources: Sequence[_Source]) -> Iterator[_Progress]:
    """Show a bar while it lasts, on a terminal."""
    console = output.stderr()
    report = partial(output.say_on, console)
    if not console.is_terminal:
        yield _Progress(report, lambda _bytes: None)
        return

    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    sizes = [source.size for source in sources]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress("storing", *columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield _Progress(report, partial(bar.advance, task))
