"""A progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant.cli import output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

_REFRESH_SECONDS = 0.5


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show how far the work in the block has come; yield what is called with the number done so far.

    Args:
        what: the work, as in ``purging``.
        total: how much there is; None where nobody knows.
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
async def polled_progress(what: str, total: int, count: Callable[[], Awaitable[int]]) -> AsyncIterator[None]:
    """Show how far the work in the block has come, by asking now and then how much is done.

    Args:
        what: the work, as in ``emitting``.
        total: how much there is.
        count: returns how much is done.
    """
    if not output.stderr().is_terminal:
        yield
        return
    with progress(what, total) as show:

        async def refresh() -> None:
            while True:
                show(await count())
                await asyncio.sleep(_REFRESH_SECONDS)

        refreshing = asyncio.create_task(refresh())
        try:
            yield
        finally:
            refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await refreshing
