"""Sends a webhook when a Prefect flow fails: a hook stores an event, and a drain of Resonant delivers it.

The flow's result does not depend on the receiver of the webhook, and an outage of the receiver does not lose the event.
``PREFECT_API_URL`` names the server that shows the run, such as that of ``resonant up``::

    export PREFECT_API_URL=http://127.0.0.1:4200/api
    python examples/webhook_on_failure.py
    RESONANT_DATABASE_URL=sqlite:///events.db resonant deliveries

In your own flows, use the store of ``resonant up``: set RESONANT_DATABASE_URL to the same value for both.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import prefect
from prefect.settings import PREFECT_API_URL

from resonant import Event, open_store

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.schemas.objects import FlowRun

ENDPOINT = "operations"
STORE_URL = os.environ.get("RESONANT_DATABASE_URL", "sqlite:///events.db")


async def store_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Store one event for this failed or crashed state of the flow run."""
    event = Event(
        id=f"flow-run-state-{state.id}",
        type=f"com.example.flow-run.{state.type.value.lower()}",
        source="/prefect",
        subject=flow.name,
        data={
            "flow": flow.name,
            "run": flow_run.name,
            "run_id": str(flow_run.id),
            "message": state.message,
        },
    )
    async with open_store(STORE_URL) as store:
        await store.enqueue(event, ENDPOINT)


@prefect.flow(name="import-orders", on_failure=[store_failure], on_crashed=[store_failure])
async def import_orders() -> None:
    """Fail, as your own flow might."""
    raise RuntimeError("the file of orders is empty")


async def main() -> None:
    """Run the flow, and print its final state."""
    state: State[None] = await import_orders(return_state=True)
    sys.stdout.write(f"{state.name}: an event for {ENDPOINT} is stored\n")


if __name__ == "__main__":
    if PREFECT_API_URL.value() is None:
        # Prefect would start a server of its own, on the same database as that of `resonant up`.
        sys.exit("set PREFECT_API_URL: the server of `resonant up` is at http://127.0.0.1:4200/api")
    asyncio.run(main())
