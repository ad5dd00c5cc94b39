"""A progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant import output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

_REFRESH_SECONDS = 0.5


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show the progress of the work in the block; yield a function that takes the number done so far.

    Args:
        what: the work, such as ``purging``.
        total: the amount of work; None if unknown.
    """
    console = output.stderr()
    if not console.is_terminal:
        yield lambda _done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextlib.asynccontextmanager
async def shown_until_the_end(
    what: str, total: int, look: Callable[[], Awaitable[tuple[int, str]]], *, hidden: bool = False
) -> AsyncIterator[None]:
    """Poll and show the progress of the work in the block; its final state stays on the screen.

    Args:
        what: the work, such as ``emitting``.
        total: the amount of work.
        look: returns the amount done, and a note; called only on a terminal.
        hidden: show nothing.
    """
    console = output.stderr()
    if hidden or not console.is_terminal:
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, note="")

        async def refresh() -> None:
            done, note = await look()
            bar.update(task, completed=done, note=note)

        async def refresh_now_and_then() -> None:
            while True:
                await refresh()
                await asyncio.sleep(_REFRESH_SECONDS)

        refreshing = asyncio.create_task(refresh_now_and_then())
        try:
            yield
        finally:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)
        await refresh()
