"""procrastinate: https://procrastinate.readthedocs.io/en/stable/quickstart.html, with asynchronous tasks."""

import os
from functools import cache

from procrastinate import App, PsycopgConnector, RetryStrategy

from benches.contenders.workers.posting import apost, async_client

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_BROKER"]))
_client = cache(async_client)


@app.task(retry=RetryStrategy(max_attempts=3, wait=0))
async def deliver(event_id: str, body: str) -> None:
    """Send one event."""
    await apost(_client(), event_id, body)
