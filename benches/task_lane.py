"""The task lane compared with Prefect tasks that do nothing or only post, with the same number in flight, on one server with
the shipped settings.

All are whole flow runs, from the call to its end. Between rounds the server finishes its records, so that no round disturbs
the next.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

from benches.comparing import Comparison, Stopwatch, all_in_turn
from benches.lanes import task_runs_in_flight
from benches.receiver import receiver
from benches.surroundings import (
    ENDPOINT,
    empty_home,
    events,
    prefect_server,
    recorded_task_runs,
    save_endpoint,
)
from resonant.dispatch.run.uv_loop import UvLoop
from resonant.store import WorkerStore

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from prefect import State

    from resonant.settings import Settings

EVENTS, ROUNDS = 1_000, 5


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with (
        empty_home() as settings,
        receiver() as url,
        prefect_server(settings) as api_url,
        asyncio.Runner(loop_factory=UvLoop) as runner,  # for all sides, as in a flow run of `emit`
    ):
        return runner.run(_Lane(settings, api_url, url, count).compare(rounds))


class _Lane:
    def __init__(self, settings: Settings, api_url: str, url: str, count: int) -> None:
        self._settings = settings
        self._api_url = api_url
        self._url = url
        self._count = count
        self._in_flight = task_runs_in_flight(settings.concurrency, settings.endpoint_concurrency)
        self._cpu: tuple[list[float], ...] = ([], [], [])
        self._recorded: tuple[list[float], ...] = ([], [], [])

    async def compare(self, rounds: int) -> list[Comparison]:
        from prefect.logging.handlers import APILogHandler

        await save_endpoint(self._url)
        ours, empty, posting = await all_in_turn([self._emit, self._do_nothing, self._post], rounds)
        await APILogHandler.aflush()  # before the server ends
        against = f"empty tasks, {self._in_flight} in flight"
        only_post = f"tasks that only post, {self._in_flight} in flight"
        return [
            Comparison("throughput", "events/s", ours, empty, against, ratio_at_least=0.9),
            Comparison("throughput", "events/s", ours, posting, only_post, ratio_at_least=0.9),
            Comparison("throughput of tasks that only post", "events/s", posting, empty, against),
            _without_warm_up("CPU of the process", "ms an event", self._cpu),
            _without_warm_up("recorded by the server", "task runs/s", self._recorded, ours_at_least=250),
        ]

    async def _emit(self) -> float:
        state, watch = await emit_stored(self._settings.store_url, self._count, lane="task")
        return await self._after(state, watch, side=0)

    async def _do_nothing(self) -> float:
        from benches.empty_tasks import empty_tasks

        with Stopwatch() as watch:
            state = await empty_tasks(self._count, self._in_flight, return_state=True)
        return await self._after(state, watch, side=1)

    async def _post(self) -> float:
        from benches.empty_tasks import posting_tasks

        with Stopwatch() as watch:
            state = await posting_tasks(self._count, self._in_flight, self._url, return_state=True)
        return await self._after(state, watch, side=2)

    async def _after(self, state: State[None], watch: Stopwatch, *, side: int) -> float:
        started = time.monotonic() - watch.seconds
        recorded = await recorded_task_runs(self._api_url, state.state_details.flow_run_id, self._count)
        self._recorded[side].append(recorded / (time.monotonic() - started))
        self._cpu[side].append(watch.cpu_seconds / self._count * 1000)
        return self._count / watch.seconds


async def emit_stored(
    store_url: str, count: int, *, endpoint: str | None = ENDPOINT, **options: Any
) -> tuple[State[None], Stopwatch]:
    """Store events, then deliver them with a flow run; only the flow run is timed.

    Args:
        store_url: the URL of the configured store.
        count: events.
        endpoint: the only endpoint that the flow run sends to; None for all.
        options: other parameters of the flow.
    """
    from flows.emit import emit_events

    store = await WorkerStore.open(store_url)
    try:
        await store.enqueue(events(count), ENDPOINT)
        with Stopwatch() as watch:
            run = cast("Awaitable[State[None]]", emit_events(endpoint=endpoint, return_state=True, **options))
            state = await run
        if unfinished := await store.unfinished():
            raise RuntimeError(f"{unfinished} events were not delivered: {state.message}")
    finally:
        await store.close()
    return state, watch


def _without_warm_up(
    what: str, unit: str, measured: tuple[list[float], ...], *, ours_at_least: float | None = None
) -> Comparison:
    ours, baseline, _ = (values[1:] for values in measured)
    return Comparison(what, unit, ours, baseline, "of empty tasks", ours_at_least=ours_at_least)
