"""Opens the configured store for a command, and finds or starts a Prefect server. Commands import this module, so it imports little."""

from __future__ import annotations

import contextlib
import contextvars
import getpass
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from sqlalchemy import Connection

    from resonant.blocks import EndpointBlock
    from resonant.settings import Settings
    from resonant.store import WorkerStore

P = ParamSpec("P")
T = TypeVar("T")
Row = TypeVar("Row")
# Passes rows on until Ctrl-C: the operation runs in a thread, which nothing else can stop.
UntilStopped: TypeAlias = "Callable[[Iterator[Row]], Iterator[Row]]"
# The store that the command prints at its end.
named_store: contextvars.ContextVar[str | None] = contextvars.ContextVar("named_store", default=None)


class _Stopped(Exception):
    """Ends the operation's thread; never reported, since the waiting coroutine was cancelled."""


async def load_endpoint(name: str) -> EndpointBlock:
    """Load an endpoint's block as ``resonant.blocks.load_endpoint`` does, within ``on_prefect``; Prefect's log stays hidden."""
    from resonant import blocks

    if "/" in name:
        from resonant.local.prefect_log import show_prefect_log

        show_prefect_log(verbose=False)  # otherwise Prefect shows it when it looks up the block type
    return await blocks.load_endpoint(name)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own, and return its result."""
    import asyncio

    return asyncio.run(work)


def who_runs_this() -> str:
    """Return the name of the user, for the audit."""
    try:
        return f"{getpass.getuser()} on the command line"
    except (KeyError, OSError):
        return "the command line"


class CommandStore:
    """The store of a command, opened when it is first used. The command may ask questions between its uses.

    Args:
        settings: provide the store's URL.
        runner: runs all coroutines of the command.
        patient: whether to wait for an unreachable store, as a run does.
        exists: whether a missing file of an SQLite store is an error; otherwise, it is created.
    """

    def __init__(
        self, settings: Settings, runner: asyncio.Runner, *, patient: bool = False, exists: bool = False
    ) -> None:
        self.settings = settings
        self._runner = runner
        self._patient = patient
        self._must_exist = exists
        self._opened = contextlib.AsyncExitStack()
        self._store: WorkerStore | None = None

    @property
    def is_missing(self) -> bool:
        """Whether it is an SQLite store whose file does not exist yet."""
        return _missing_file(self.settings.store_url) is not None

    def run(self, work: Callable[[WorkerStore], Awaitable[T]]) -> T:
        """Do this work on the store.

        Raises:
            StoreError: the store cannot be used.
        """

        async def main() -> T:
            return await work(await self._open())

        # A runner would keep the context of its first run, and with it Prefect's settings of that moment.
        return self._runner.run(main(), context=contextvars.copy_context())

    def now(self) -> float:
        """Return the store's time, in seconds since the epoch; raises what ``run`` raises."""

        async def clock(store: WorkerStore) -> float:
            return store.clock()

        return self.run(clock)

    def read(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an operation that only reads; raises what ``run`` raises."""
        return self.run(lambda store: store.read(operation, *args, **kwargs))

    def change(self, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run an operation that writes, and records in the audit who does it and when; raises what ``run`` raises."""
        how = kwargs | {"who": who_runs_this()}
        return self.run(lambda store: store.write(operation, *args, now=store.clock(), **how))

    def read_rows(self, operation: Callable[[Connection, UntilStopped[Any]], T]) -> T:
        """Run an operation that may read many rows; Ctrl-C ends it. Raises what ``run`` raises."""
        stopped = threading.Event()

        def until_stopped(rows: Iterator[Row]) -> Iterator[Row]:
            for row in rows:
                if stopped.is_set():
                    raise _Stopped
                yield row

        async def work(store: WorkerStore) -> T:
            try:
                return await store.read(operation, until_stopped)
            finally:
                stopped.set()

        return self.run(work)

    @property
    def name(self) -> str | None:
        """The store's URL without its password; None if the store was not opened."""
        return None if self._store is None else str(self._store)

    def close(self) -> None:
        """Close the store, if it is open."""
        if self._store is not None:
            self._runner.run(self._opened.aclose())

    async def _open(self) -> WorkerStore:
        from resonant.configured import open_configured_store

        if self._store is None:
            if self._must_exist:
                check_file(self.settings.store_url)
            opening = open_configured_store(self.settings, patient=self._patient)
            self._store = await self._opened.enter_async_context(opening)
        return self._store


def check_file(url: str) -> None:
    """Refuse an SQLite store whose file does not exist: a new, empty store would hide a wrong path."""
    from resonant.errors import StoreRefused

    if (path := _missing_file(url)) is not None:
        raise StoreRefused(
            f"sqlite:///{path}: no such file: `resonant up` or `resonant emit` creates a store; if yours is elsewhere, set "
            "RESONANT_DATABASE_URL or RESONANT_HOME"
        )


def _missing_file(url: str) -> Path | None:
    from resonant.store.engine.database import file_of

    path = file_of(url)
    return None if path is None or path.exists() else path


@contextlib.contextmanager
def command_store(
    settings: Settings | None = None, *, named: bool = False, **how: bool
) -> Iterator[CommandStore]:
    """Provide the configured store, and close it at the end of the block.

    Args:
        settings: provide the store's URL; read from the environment by default.
        named: whether the command prints the store's URL at its end, as commands that read do.
        how: ``patient`` or ``exists``, as for ``CommandStore``.

    Raises:
        SettingsError: the environment is malformed.
    """
    import asyncio

    from resonant.settings import load_settings

    with asyncio.Runner() as runner:
        store = CommandStore(settings or load_settings(), runner, **how)
        try:
            yield store
            if named:
                named_store.set(store.name)
        finally:
            store.close()


@contextlib.contextmanager
def on_prefect(
    settings: Settings | None = None,
    *,
    named: bool = False,
    exists: bool = False,
    before_start: Callable[[CommandStore], None] | None = None,
) -> Iterator[CommandStore]:
    """Provide a Prefect server to a command that runs no flow, make the project importable, and provide the store.

    ``settings``, ``named`` and ``exists`` are as for ``command_store``; a missing file is reported before a server is started.
    ``before_start`` is as for ``prefect_server``, and gets the store.
    """
    from resonant.local.project import make_flows_importable
    from resonant.local.server import prefect_server

    with command_store(settings, named=named) as store:
        if exists:
            check_file(store.settings.store_url)
        make_flows_importable()
        check = before_start and partial(before_start, store)
        with prefect_server(store.settings, runs_flows=False, before_start=check):
            yield store
