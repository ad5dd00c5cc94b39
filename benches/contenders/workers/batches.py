"""Read the names of event files from standard input, and process their events."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

IN_FLIGHT = int(os.environ["BENCH_IN_FLIGHT"])


async def process_batches(do: Callable[[str, str], Awaitable[object]]) -> None:
    """Call a function with the id and body of each event, several at a time; print the start and end times of each file."""
    async for events in _batches():
        left = iter(events)

        async def one_after_the_other() -> None:
            for event_id, body in left:  # noqa: B023 - all are awaited below
                await do(event_id, body)

        at_once = min(IN_FLIGHT, len(events))
        began = time.monotonic()
        await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
        print(began, time.monotonic(), flush=True)


async def _batches() -> AsyncIterator[list[tuple[str, str]]]:
    names = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(names), sys.stdin)
    async for line in names:
        yield json.loads(Path(line.decode().strip()).read_bytes())
