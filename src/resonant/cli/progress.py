"""A progress bar on a terminal, and nothing elsewhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeAlias

from resonant import output

_REFRESH_SECONDS = 0.5

# Shows the amount done, and a note.
Show: TypeAlias = "Callable[..., None]"


@contextlib.contextmanager
def progress(what: str, total: int | None = None, *, stays: bool = False) -> Iterator[Show]:
    """Show the progress of the work in the block; yield a function that takes the number done so far, and a note.

    Args:
        what: the work, such as ``purging``.
        total: the amount of work; None if unknown.
        stays: whether the last state stays on the screen, with the note.
    """
    console = output.stderr()
    if not console.is_terminal:
        yield lambda _done, _note="": None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16 if stays else 40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *([TextColumn("{task.fields[note]}")] if stays else []),
    )
    with Progress(*columns, console=console, transient=not stays) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)


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
    if hidden or not output.stderr().is_terminal:
        yield
        return

    async def keep_showing() -> None:
        while True:
            show(*await look())
            await asyncio.sleep(_REFRESH_SECONDS)

    with progress(what, total, stays=True) as show:
        showing = asyncio.create_task(keep_showing())
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        show(*await look())
