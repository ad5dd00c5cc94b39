"""Store the events of JSONL files as a stream, in batches. Bad lines are reported and skipped."""

import asyncio
from array import array
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from resonant import output
from resonant.cli.send.sources import Interruption, Source, chunks, noted_signals, opened, what_is_wrong
from resonant.display import counted
from resonant.errors import InvalidEvent, ResonantError, StoreReplaced
from resonant.events import Event
from resonant.input_lines import longest_line, parse_event, too_long
from resonant.store import EnqueueResult, Store
from resonant.store.queue.accept import Acceptance, Conflict, Unrouted

Enqueue = Callable[[list[Event]], Coroutine[Any, Any, EnqueueResult]]

BATCH_LINES, BATCH_BYTES, BATCH_SECONDS = 1_000, 8 * 1024 * 1024, 0.5
SHOWN_BAD_LINES = 20


@dataclass(slots=True)
class Summary:
    """The numbers of stored, known and bad lines.

    Attributes:
        stored: events accepted now.
        known: events accepted before.
        erased: events that were accepted before and erased; they are not stored again.
        bad: invalid lines, and lines whose source and id were accepted before with different content.
        dropped_traces: lines that were stored without their invalid ``traceparent`` or ``tracestate``.
        unrouted: events that no subscription matches; they are not stored.
        by_endpoint: deliveries accepted now.
        first_unrouted: the first of these events.
        allow_unrouted: whether unrouted events are no failure.
    """

    stored: int = 0
    known: int = 0
    erased: int = 0
    bad: int = 0
    dropped_traces: int = 0
    unrouted: int = 0
    by_endpoint: Counter[str] = field(default_factory=Counter)
    first_unrouted: Unrouted | None = None
    allow_unrouted: bool = False

    @property
    def refused(self) -> int:
        """The number of lines that make the command fail."""
        return self.bad + (0 if self.allow_unrouted else self.unrouted)


@dataclass(slots=True)
class _Batch:
    """Events to be stored together.

    ``places`` has the origin of each event, ``FILE:LINE``. ``oldest_at`` is when the first event was read, on the loop's
    clock. ``size`` is in bytes.
    """

    oldest_at: float
    size: int = 0
    events: list[Event] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, event: Event, place: str, size: int) -> None:
        self.events.append(event)
        self.places.append(place)
        self.size += size

    @property
    def is_full(self) -> bool:
        return len(self.events) >= BATCH_LINES or self.size >= BATCH_BYTES


class _NothingStored(Exception):
    """Raised for refused lines under ``strict``, to roll the transaction back."""


async def store_files(
    store: Store,
    paths: Sequence[str],
    endpoint: str | None,
    *,
    max_event_bytes: int,
    event_type: str | None = None,
    policy: str | None = None,
    max_attempts: int | None = None,
    strict: bool = False,
    allow_unrouted: bool = False,
    delivery_ids: "array[int] | None" = None,
) -> Summary:
    """Store the events of these files; report bad lines on standard error.

    A batch is stored when it has 1,000 lines or 8 MiB, when its oldest line is half a second old, or when a pipe
    pauses. A line may have up to four times the size of the largest event plus 64 KiB, to allow for ASCII escapes and
    attributes. Longer lines are bad and never held in memory. SIGINT and SIGTERM end the reading; the complete lines
    read so far are stored, or none under ``strict``.

    Args:
        paths: JSONL files; ``-`` is standard input. All are opened before any event is stored.
        endpoint: the name of the only endpoint that gets the events; None: the subscriptions decide.
        max_event_bytes: the largest body of an event.
        event_type: the type of lines that have none.
        policy: a retry policy's name, kept with the deliveries.
        max_attempts: an override of the policy's, kept with the deliveries.
        strict: store everything in one transaction, and nothing if any line is bad. On SQLite, other writers wait
            meanwhile.
        allow_unrouted: count events that no subscription matches, instead of reporting them as bad lines.
        delivery_ids: receives the keys of all accepted deliveries, possibly with duplicates. With None,
            memory stays bounded for an endless stream.

    Raises:
        Interrupted: a signal or Ctrl-C ended the reading; the message says how much was stored.
        ResonantError: a file cannot be read, or the store cannot write; the message says how much was stored.
    """
    options = {"policy": policy, "max_attempts": max_attempts, "report_conflicts": True}
    with ExitStack() as stack:
        sources = [stack.enter_context(opened(path)) for path in paths]
        interruption = stack.enter_context(noted_signals())
        report, advance = stack.enter_context(_progress(sources))
        counts = _LineCounts(
            report=report, strict=strict, delivery_ids=delivery_ids, allow_unrouted=allow_unrouted
        )
        parse = partial(parse_event, default_type=event_type, max_bytes=max_event_bytes)
        reader = _Reader(parse, counts, advance, longest_line=longest_line(max_event_bytes))
        try:
            async with (
                _enqueueing(store, endpoint, options, counts) as enqueue,
                aclosing(reader.batches(sources, interruption)) as batches,
            ):
                async for batch in batches:
                    await _store_batch(batch, enqueue, counts)
                if interruption.signal is not None:
                    raise output.Interrupted(f"interrupted; {counts.so_far()}", interruption.signal)
        except _NothingStored:
            return Summary(bad=counts.bad, unrouted=counts.unrouted, allow_unrouted=allow_unrouted)
        except StoreReplaced:
            raise  # earlier batches may be lost too, so their count would mislead
        except ResonantError as error:
            raise type(error)(f"{error}; {counts.so_far()}") from None
        except asyncio.CancelledError:
            raise output.Interrupted(f"interrupted; {counts.so_far()}") from None
        finally:
            if (more := counts.refused - SHOWN_BAD_LINES) > 0:
                report(f"and {counted(more, 'more bad line')}")
        return Summary(**{each.name: getattr(counts, each.name) for each in fields(Summary)})


@dataclass(slots=True, kw_only=True)
class _LineCounts(Summary):
    """Counts lines; ``report`` writes a line about each of the first bad ones to standard error."""

    report: Callable[[str], None]
    strict: bool = False
    delivery_ids: "array[int] | None" = None

    def add_bad(self, place: str, reason: str) -> None:
        self.bad += 1
        self._report(place, reason)

    def add(self, outcome: Acceptance, place: str) -> None:
        """Count an event that was accepted or refused."""
        match outcome.problem:
            case Unrouted() as problem:
                self.unrouted += 1
                self.first_unrouted = self.first_unrouted or problem
                if not self.allow_unrouted:
                    self._report(place, f"{problem}; --allow-unrouted skips it")
            case Conflict() as problem:
                self.add_bad(place, str(problem))
            case _ if outcome.erased:
                self.erased += 1
            case _ if outcome.duplicate:
                self.known += 1
            case _:
                self.stored += 1
                self.by_endpoint.update(outcome.endpoints)

    def _report(self, place: str, reason: str) -> None:
        if self.refused <= SHOWN_BAD_LINES:
            self.report(f"{place}: {reason}")

    def so_far(self) -> str:
        """Return how much was stored, for the message of an interrupted command."""
        if self.strict:
            return "nothing was stored (--strict)"
        return (
            f"{counted(self.stored, 'new event')} stored: "
            "running this again is safe for lines that have an id"
        )


@asynccontextmanager
async def _enqueueing(
    store: Store, endpoint: str | None, options: dict[str, Any], counts: _LineCounts
) -> AsyncIterator[Enqueue]:
    """Yield a function that stores a batch: in its own transaction or, with ``strict``, in a shared one."""
    if not counts.strict:
        yield lambda events: store.enqueue(events, endpoint, **options)
        return
    from resonant.store import enqueue

    async with store.transaction() as transaction:
        yield lambda events: transaction.run_sync(enqueue, events, endpoint, now=store.clock(), **options)
        if counts.refused:
            raise _NothingStored


async def _store_batch(batch: _Batch, enqueue: Enqueue, counts: _LineCounts) -> None:
    writing = asyncio.ensure_future(enqueue(batch.events))
    try:
        await asyncio.shield(writing)
    finally:
        # On Ctrl-C too, wait for the current batch, so that the counts are right.
        accepted = await writing
        counts.dropped_traces += accepted.dropped_traces
        if counts.delivery_ids is not None:
            counts.delivery_ids.extend(accepted.delivery_ids)
        for outcome, place in zip(accepted.outcomes, batch.places, strict=True):
            counts.add(outcome, place)


class _Reader:
    """Parses lines into batches of events; counts invalid lines, and advances the progress bar by the bytes read."""

    def __init__(
        self,
        parse: Callable[[bytes], Event],
        counts: _LineCounts,
        advance: Callable[[int], None],
        *,
        longest_line: int,
    ) -> None:
        self._parse = parse
        self._counts = counts
        self._advance = advance
        self._longest_line = longest_line
        self._good = 0

    async def batches(
        self, sources: Sequence[Source], interruption: Interruption
    ) -> AsyncGenerator[_Batch, None]:
        clock = asyncio.get_running_loop().time
        batch = _Batch(clock())
        for source in sources:
            splitter, wrong = _Splitter(self._longest_line), None
            good, bad = self._good, self._counts.bad
            async with aclosing(chunks(source, interruption)) as pieces:
                async for piece in pieces:
                    if splitter.is_at_start:
                        wrong = what_is_wrong(piece)
                    if not batch.events:
                        batch.oldest_at = clock()
                    self._advance(len(piece))
                    for number, line in splitter.split(piece):
                        self._read_line(batch, f"{source.name}:{number}", line)
                        if batch.is_full:
                            yield batch
                            batch = _Batch(clock())
                    if batch.events and (not piece or clock() - batch.oldest_at >= BATCH_SECONDS):
                        yield batch
                        batch = _Batch(clock())
            if wrong is not None and self._counts.bad > bad and self._good == good:
                self._counts.report(f"{source.name}: {wrong}")
        if batch.events:
            yield batch

    def _read_line(self, batch: _Batch, place: str, line: bytes | None) -> None:
        """Add a line's event to the batch."""
        if line is None:
            self._counts.add_bad(place, str(too_long(self._longest_line)))
        elif line and not line.isspace():
            try:
                event = self._parse(line)
            except InvalidEvent as error:
                self._counts.add_bad(place, str(error))
            else:
                batch.add(event, place, len(line))
                self._good += 1


class _Splitter:
    """Splits chunks into lines, and never holds more than ``longest`` bytes of a line."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._number = 1
        self._rest = b""
        self._too_long = False

    @property
    def is_at_start(self) -> bool:
        """Whether no data has been split yet."""
        return self._number == 1 and not self._rest and not self._too_long

    def split(self, chunk: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the number (from 1) and content of each line that this chunk completes; None for a line too long."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield self._number, None if self._too_long or len(line) > self._longest else line
            self._number, self._too_long = self._number + 1, False
        if self._too_long or len(self._rest) > self._longest:
            self._rest, self._too_long = b"", True


@contextmanager
def _progress(sources: Sequence[Source]) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """Show a progress bar on a terminal; yield functions that report a line and advance the bar by a number of bytes."""
    console = output.stderr()
    report = partial(output.say_on, console)
    if not console.is_terminal:
        yield report, lambda _bytes: None
        return

    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    sizes = [source.size for source in sources]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress("storing", *columns, console=console, transient=True) as bar:
        yield report, partial(bar.advance, bar.add_task("", total=total))
