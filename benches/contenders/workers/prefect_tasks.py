"""Prefect tasks, one per event: empty, or a simple request with Prefect's own retries."""

import asyncio
import sys

import httpx
from prefect import flow, task

from benches.contenders.workers.batches import process_batches
from benches.contenders.workers.posting import apost, async_client
from benches.empty_tasks import do_nothing

_client: httpx.AsyncClient | None = None


@task(retries=3, retry_delay_seconds=0.1)
async def deliver(event_id: str, body: str) -> None:
    """Send one event."""
    global _client  # noqa: PLW0603 - one for the process, made in its loop
    if _client is None:
        _client = async_client()
    await apost(_client, event_id, body)


@flow(persist_result=False)
async def run_tasks(kind: str) -> None:
    """Run a task for each event that this process reads."""
    await process_batches(deliver if kind == "naive" else lambda *_event: do_nothing())


asyncio.run(run_tasks(sys.argv[1]))
