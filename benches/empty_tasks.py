"""The baselines of the task lane: flows of tasks that do nothing, and of tasks that only post."""

import asyncio
from collections.abc import Awaitable, Callable

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

_BODY = b"x" * 300


@task(cache_policy=NO_CACHE, persist_result=False)
async def do_nothing() -> None:
    """Do nothing."""


@flow(persist_result=False)
async def empty_tasks(count: int, in_flight: int) -> None:
    """Run ``count`` tasks, ``in_flight`` at the same time."""
    await _run(do_nothing, count, in_flight)


@flow(persist_result=False)
async def posting_tasks(count: int, in_flight: int, url: str) -> None:
    """Run ``count`` tasks that each post a body of 300 bytes, as the task lane's transport does, and store nothing."""
    import aiohttp  # here, since the contender of empty tasks does not need it

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        @task(cache_policy=NO_CACHE, persist_result=False)
        async def post() -> None:
            async with session.post(url, data=_BODY) as answer:
                answer.raise_for_status()
                await answer.read()

        await _run(post, count, in_flight)


async def _run(each: Callable[[], Awaitable[None]], count: int, in_flight: int) -> None:
    left = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in left:
            await each()

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))
