"""The baseline of the task lane: a flow of tasks that do nothing."""

import asyncio

from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@task(cache_policy=NO_CACHE, persist_result=False)
async def do_nothing() -> None:
    """Do nothing."""


@flow(persist_result=False)
async def empty_tasks(count: int, in_flight: int) -> None:
    """Run ``count`` tasks, ``in_flight`` at the same time."""
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            await do_nothing()

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
