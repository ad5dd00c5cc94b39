"""The work pool of the deployments."""

from __future__ import annotations

import contextlib

WORK_POOL = "resonant"


async def make_work_pool() -> None:
    """Create the work pool; an existing one of any type stays unchanged."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    async with get_client() as client:
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
