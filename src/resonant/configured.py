"""The store that the settings name, open for as long as a block."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from resonant.settings import Settings, load_settings
from resonant.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from resonant.store import Store


@asynccontextmanager
async def open_configured_store(settings: Settings | None = None) -> AsyncIterator[Store]:
    """Open the store, and close it at the end of the block.

    Args:
        settings: name it; read from the environment where they are not given.

    Raises:
        SettingsError: the environment is malformed.
        StoreError: the store cannot be opened.
    """
    settings = settings or load_settings()
    store = await open_store(
        settings.store_url, lease_seconds=settings.lease_seconds, rollups=settings.rollups
    )
    try:
        yield store
    finally:
        await store.close()
