"""Run a flow in the process of a command, with a Prefect server and a one-line outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from resonant import output
from resonant.errors import ServerGone
from resonant.local.project import make_flows_importable

if TYPE_CHECKING:
    from uuid import UUID

    from prefect import State
    from prefect.client.orchestration import PrefectClient

    from resonant.cli.command_store import CommandStore
    from resonant.store import WorkerStore

# The time limit for the runs' records to reach a server that ends with this command.
_RECORD_SECONDS = 60.0
_RECORD_POLL_SECONDS = 2.0


def run_flow(
    store: CommandStore,
    start: Callable[[WorkerStore], Awaitable[State[Any] | None]],
    *,
    verbose: bool = False,
    reported: Callable[[State[Any]], bool] = lambda _state: False,
) -> State[Any]:
    """Run a flow, and return its final state.

    Args:
        store: opened for the flow too. Its settings provide the home of `resonant up`, whose server is used if it runs.
        start: imports and runs the flow and returns its state; None if it printed why it did not run the flow.
        verbose: show Prefect's log, which is in the UI too.
        reported: returns whether the command reports this failed state itself.

    Raises:
        ServerError: no server runs, and none can be started.
        typer.Exit: with code 1 if the flow failed or did not run.
    """
    from resonant.local.server import prefect_server, send_events

    make_flows_importable()
    try:
        with prefect_server(store.settings, verbose=verbose) as server:
            state = store.run(start)
            if state is not None and server.is_temporary:
                send_events(server.api_url)
                asyncio.run(wait_for_records([state.state_details.flow_run_id]))
    except ServerGone as error:
        raise ServerGone(
            f"{error}: its UI does not show how this run ended. Nothing is lost: `resonant status` shows the "
            "deliveries, and `resonant emit` sends the rest"
        ) from None
    if state is None:
        raise typer.Exit(1)
    if not state.is_completed() and not reported(state):
        output.say(f"resonant: {state.message}")
        raise typer.Exit(1)
    return state


async def wait_for_records(flow_run_ids: Sequence[UUID | None]) -> None:
    """Wait up to a minute until the server has recorded the final state of every task run of these flow runs."""
    from prefect.client.orchestration import get_client

    of_runs = {"id": {"any_": [str(each) for each in flow_run_ids]}}
    unended = {"state": {"type": {"any_": ["PENDING", "RUNNING", "SCHEDULED"]}}}
    async with get_client() as client:
        seen = -1
        for _ in range(int(_RECORD_SECONDS / _RECORD_POLL_SECONDS)):
            runs = await _count_task_runs(client, flow_runs=of_runs)
            if runs == seen and not await _count_task_runs(client, flow_runs=of_runs, task_runs=unended):
                return
            seen = runs
            await asyncio.sleep(_RECORD_POLL_SECONDS)


async def _count_task_runs(client: PrefectClient, **query: object) -> int:
    """Return the number of recorded task runs by Prefect's filters; the client retries while the server is busy (503)."""
    return int((await client.request("POST", "/task_runs/count", json=query)).json())
