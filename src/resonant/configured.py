"""Opens the configured store."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from resonant.errors import StoreRefused, StoreUnavailable
from resonant.settings import Settings
from resonant.store import WorkerStore
from resonant.store.engine.availability import retry_while_unavailable

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_configured_store(settings: Settings, *, patient: bool = False) -> AsyncIterator[WorkerStore]:
    """Open the store, and close it at the end of the block.

    Args:
        settings: provide the store's URL.
        patient: whether to wait for an unreachable store for a third of the lease, as a run does.

    Raises:
        StoreError: the store cannot be opened.
    """
    open_it = partial(WorkerStore.open, settings.store_url, lease_seconds=settings.lease_seconds)
    try:
        store = await open_it()
    except StoreUnavailable as error:
        if not patient or isinstance(error, StoreRefused):
            raise
        patience = settings.lease_seconds / 3
        logger.warning("%s: trying again for %.0f s", error, patience)
        store = await retry_while_unavailable(open_it, patience)
    try:
        yield store
    finally:
        await store.close()
