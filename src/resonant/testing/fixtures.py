"""Fixtures for pytest, registered with the entry point ``pytest11``; see docs/testing.md.

pytest imports this module in every run if Resonant is installed, so it imports nothing heavy.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from resonant.testing.receiver import Receiver
from resonant.testing.scripts import Script, always_ok

if TYPE_CHECKING:
    from pathlib import Path

    from resonant.events import Clock
    from resonant.store import Store
    from resonant.testing.actions import Action


class OpenStore(Protocol):
    """The type of the fixture ``resonant_store``."""

    def __call__(self, *, clock: Clock = ...) -> AbstractAsyncContextManager[Store]:
        """Open the test's store; close it at the end of the block."""


@pytest.fixture
def resonant_script() -> Script | Action:
    """The script or action of ``resonant_receiver``; override or parametrize it."""
    return always_ok


@pytest.fixture
def resonant_receiver(resonant_script: Script | Action) -> Iterator[Receiver]:
    """Run a receiver in a thread, for synchronous and asynchronous tests."""
    receiver = Receiver(resonant_script)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="resonant-receiver", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(receiver.__aenter__(), loop).result()
        yield receiver
        asyncio.run_coroutine_threadsafe(receiver.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def resonant_store(tmp_path: Path) -> OpenStore:
    """Return a function that opens the test's store, a new SQLite file; a second call opens the same store."""
    # Imported here, since most runs of pytest need no store.
    from resonant.store import Store  # noqa: PLC0415

    @asynccontextmanager
    async def open_(*, clock: Clock = time.time) -> AsyncIterator[Store]:
        store = await Store.open(f"sqlite:///{tmp_path / 'resonant.db'}", clock=clock)
        try:
            yield store
        finally:
            await store.close()

    return open_
