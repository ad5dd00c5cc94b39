"""Run a command on the configured store."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import threading
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sqlalchemy import Connection

    from blocks import EndpointBlock
    from resonant.settings import Settings
    from resonant.store import Store, WorkerStore

T = TypeVar("T")
Row = TypeVar("Row")


class UntilStopped(Protocol):
    """Yields rows until Ctrl-C: the operation runs in a thread, which nothing else can stop."""

    def __call__(self, rows: Iterator[Row], /) -> Iterator[Row]:
        """Yield the rows; raise when it is time to stop."""


class _Stopped(Exception):
    """Ends the operation's thread; never reported, since the waiting coroutine was cancelled."""


@contextlib.contextmanager
def on_prefect() -> Iterator[Settings]:
    """Provide a Prefect server to a command that runs no flow, and make the project's blocks importable."""
    from resonant.local.project import make_flows_importable
    from resonant.local.server import prefect_server
    from resonant.settings import load_settings

    settings = load_settings()
    make_flows_importable()
    with prefect_server(settings, runs_flows=False):
        yield settings


async def load_endpoint(name: str) -> EndpointBlock:
    """Load an endpoint's block as ``blocks.load_endpoint`` does, within ``on_prefect``; Prefect's log stays hidden."""
    import blocks

    if "/" in name:
        from resonant.local.prefect_log import show_prefect_log

        show_prefect_log(verbose=False)  # otherwise Prefect shows it when it looks up the block type
    return await blocks.load_endpoint(name)


def who_runs_this() -> str:
    """Return the name of the user, for the audit."""
    try:
        return f"{getpass.getuser()} on the command line"
    except (KeyError, OSError):
        return "the command line"


def run_with_store(work: Callable[[WorkerStore], Awaitable[T]], settings: Settings | None = None) -> T:
    """Open the store, do this work on it, and close it.

    Raises:
        ResonantError: the settings are malformed, or the store cannot be used.
    """
    from resonant.configured import open_configured_store

    async def main() -> T:
        async with open_configured_store(settings) as store:
            return await work(store)

    return asyncio.run(main())


def run_reading(operation: Callable[[Connection, UntilStopped], T]) -> T:
    """Run a possibly long operation on the store; Ctrl-C ends it.

    Raises:
        ResonantError: the settings are malformed, or the store cannot be used.
    """
    stopped = threading.Event()

    def until_stopped(rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            if stopped.is_set():
                raise _Stopped
            yield row

    async def work(store: Store) -> T:
        try:
            return await store.read(operation, until_stopped)
        finally:
            stopped.set()

    return run_with_store(work)
