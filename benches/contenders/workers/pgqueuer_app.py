"""pgqueuer: https://pgqueuer.readthedocs.io/en/latest/getting-started/quickstart.html, with asyncpg.

https://pgqueuer.readthedocs.io/en/latest/guides/performance-tuning/ recommends larger batches for short jobs, its autovacuum
settings, a single connection for the worker, and a pool for the producer. `pgq run` of 1.6.0 fails with the newest Typer, so this
module does what that command does, in the same event loop.
"""

import json
import os
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.executors import DatabaseRetryEntrypointExecutor, EntrypointExecutorParameters
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benches.contenders.contender import IN_FLIGHT
from benches.contenders.workers.posting import apost, async_client

__all__ = ["QUEUE", "AsyncpgPoolDriver", "Queries", "open_pool"]

QUEUE = "deliveries"
_RETRY = timedelta(seconds=0.1)


async def open_pool() -> asyncpg.Pool:
    """Return the producer's connections."""
    return await asyncpg.create_pool(os.environ["BENCH_BROKER"], min_size=1)


async def _main() -> None:
    connection = await asyncpg.connect(os.environ["BENCH_BROKER"])
    worker = PgQueuer.from_asyncpg_connection(connection)
    client = async_client()

    def retrying(parameters: EntrypointExecutorParameters) -> DatabaseRetryEntrypointExecutor:
        return DatabaseRetryEntrypointExecutor(
            parameters, max_attempts=3, initial_delay=_RETRY, backoff_multiplier=1.0
        )

    @worker.entrypoint(QUEUE, executor_factory=retrying)
    async def deliver(job: Job) -> None:
        """Send one event."""
        event_id, body = json.loads(job.payload or b"")
        await apost(client, event_id, body)

    await worker.run(batch_size=IN_FLIGHT // 2, max_concurrent_tasks=IN_FLIGHT)


if __name__ == "__main__":
    uvloop.run(_main())
