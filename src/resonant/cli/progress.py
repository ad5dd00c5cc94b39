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
async def polled_progress(
    what: str, left: Callable[[], Awaitable[int]], *, at_most: int | None = None
) -> AsyncIterator[None]:
    """Show how far the work in the block has come, by asking now and then how much is left.

    Args:
        what: the work, as in ``emitting``.
        left: returns how much is left; asked on a terminal only.
        at_most: how much of it the work takes at most; None is all.
    """
    if not output.stderr().is_terminal:
        yield
        return
    before = await left()
    with progress(what, before if at_most is None else min(before, at_most)) as show:

        async def refresh() -> None:
            while True:
                show(max(0, before - await left()))
                await asyncio.sleep(_REFRESH_SECONDS)

        refreshing = asyncio.create_task(refresh())
        try:
            yield
        finally:
            refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await refreshing
