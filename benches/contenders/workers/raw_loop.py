"""The baseline: a loop that posts events, and retries refused ones at once."""

import asyncio

import httpx

from benches.contenders.workers.batches import process_batches
from benches.contenders.workers.posting import apost, async_client


async def _main() -> None:
    async with async_client() as client:

        async def deliver(event_id: str, body: str) -> None:
            while True:
                try:
                    return await apost(client, event_id, body)
                except httpx.HTTPStatusError:
                    pass

        await process_batches(deliver)


asyncio.run(_main())
