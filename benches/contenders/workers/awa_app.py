"""awa: https://github.com/hardbyte/awa/blob/main/docs/getting-started-python.md, with its default storage and 50 workers."""

import asyncio
import os
from dataclasses import dataclass
from functools import cache

import httpx
from awa import AsyncClient, Client, Job, RetryAfter

from benches.contenders.contender import IN_FLIGHT
from benches.contenders.workers.posting import apost, async_client

__all__ = ["QUEUE", "Client", "Deliver"]

QUEUE = "deliveries"
_RETRY_SECONDS = 0.1
_client = cache(async_client)


@dataclass
class Deliver:
    """The arguments of a job."""

    event_id: str
    body: str


async def _main() -> None:
    client = AsyncClient(os.environ["BENCH_BROKER"])

    # `Job` cannot be subscripted at run time.
    @client.task(Deliver, queue=QUEUE)
    async def deliver(job: "Job[Deliver]") -> RetryAfter | None:
        """Send one event."""
        try:
            await apost(_client(), job.args.event_id, job.args.body)
        except httpx.HTTPError:
            return RetryAfter(_RETRY_SECONDS)
        return None

    await client.start([(QUEUE, IN_FLIGHT)])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
