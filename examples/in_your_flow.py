"""A Prefect flow of your own that reports its result as an event.

A task stores the event and ends; a drain, such as those of ``resonant up``, delivers it. Retries of the task or of the
flow store the event once, since its id is derived from the flow run. ``PREFECT_API_URL`` names the server that shows the run,
such as that of ``resonant up``::

    export PREFECT_API_URL=http://127.0.0.1:4200/api
    python examples/in_your_flow.py
    RESONANT_DATABASE_URL=sqlite:///events.db resonant status

In your own flows, use the store of ``resonant up``: set RESONANT_DATABASE_URL to the same value for both.
"""

from __future__ import annotations

import asyncio
import os
import sys

from prefect import flow, task
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from resonant import Event, open_store

ENDPOINT = "reports"
STORE_URL = os.environ.get("RESONANT_DATABASE_URL", "sqlite:///events.db")


@task(retries=3, retry_delay_seconds=5)
async def report(sales: int) -> str:
    """Store the event and return its id. If the store is unavailable, Prefect retries this task."""
    event = Event(
        id=f"sales-{flow_run.id}",
        type="com.example.sales.counted",
        source="/flows/nightly-sales",
        data={"sales": sales, "flow_run": flow_run.name},
    )
    async with open_store(STORE_URL) as store:
        await store.enqueue(event, ENDPOINT)
    return event.id


@flow(name="nightly-sales")
async def nightly_sales() -> str:
    """Compute a value and report it, as your own flow would."""
    sales = sum((19, 5, 42))
    return await report(sales)


if __name__ == "__main__":
    if PREFECT_API_URL.value() is None:
        # Prefect would start a server of its own, on the same database as that of `resonant up`.
        sys.exit("set PREFECT_API_URL: the server of `resonant up` is at http://127.0.0.1:4200/api")
    sys.stdout.write(f"stored: {asyncio.run(nightly_sales())} for {ENDPOINT}\n")
