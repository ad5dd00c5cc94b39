"""The task lane against empty Prefect tasks, as many in flight, under one server with the shipped settings.

Both are whole flow runs, from the call to its end. Between rounds the server records what it was sent, so that no round
disturbs the next.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx

from benches.measuring import Comparison, Stopwatch, in_turn, say
from benches.receiver import receiver
from benches.surroundings import ENDPOINT, empty_home, events, prefect_server
from resonant.slots import Slots
from resonant.store import open_store

if TYPE_CHECKING:
    from prefect import State

    from resonant.settings import Settings

EVENTS, ROUNDS = 1_000, 5
_RECORDING_SECONDS = 120.0


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return what came out."""
    with empty_home() as settings, receiver() as url, prefect_server(settings) as api_url:
        return asyncio.run(_Lane(settings, api_url, count, rounds).compare(url))


class _Lane:
    def __init__(self, settings: Settings, api_url: str, count: int, rounds: int) -> None:
        self._settings = settings
        self._api_url = api_url
        self._count = count
        self._rounds = rounds
        # As many as Emission claims ahead, so as many as there are task runs in flight.
        self._in_flight = 4 * Slots(settings.concurrency, settings.endpoint_concurrency).share(ENDPOINT)
        self._cpu: tuple[list[float], list[float]] = ([], [])
        self._recorded: tuple[list[float], list[float]] = ([], [])

    async def compare(self, url: str) -> list[Comparison]:
        from prefect.logging.handlers import APILogHandler
        from pydantic import SecretStr

        from blocks.catalog import save_webhook_endpoint
        from blocks.webhook_endpoint import WebhookEndpoint

        endpoint = WebhookEndpoint(url=SecretStr(url), allow_private=True)
        await save_webhook_endpoint(ENDPOINT, endpoint, overwrite=False)
        ours, baseline = await in_turn(self._emit, self._do_nothing, self._rounds)
        await APILogHandler.aflush()  # before the server ends
        against = f"empty tasks, {self._in_flight} in flight"
        return [
            Comparison("throughput", "events/s", ours, baseline, against, ratio_at_least=0.75),
            _without_warm_up("CPU of the process", "ms an event", self._cpu),
            _without_warm_up("recorded by the server", "task runs/s", self._recorded),
        ]

    async def _emit(self) -> float:
        from flows.emit import emit_events

        store = await open_store(self._settings.store_url)
        try:
            await store.enqueue(events(self._count), ENDPOINT)
            with Stopwatch() as watch:
                state = await emit_events(endpoint=ENDPOINT, return_state=True)
            if unfinished := await store.unfinished():
                raise RuntimeError(f"{unfinished} events were not delivered: {state.message}")
        finally:
            await store.close()
        return await self._after(state, watch, side=0)

    async def _do_nothing(self) -> float:
        from benches.empty_tasks import empty_tasks

        with Stopwatch() as watch:
            state = await empty_tasks(self._count, self._in_flight, return_state=True)
        return await self._after(state, watch, side=1)

    async def _after(self, state: State[None], watch: Stopwatch, *, side: int) -> float:
        started = time.monotonic() - watch.seconds
        recorded = await self._wait_until_recorded(state)
        self._recorded[side].append(recorded / (time.monotonic() - started))
        self._cpu[side].append(watch.cpu_seconds / self._count * 1000)
        return self._count / watch.seconds

    async def _wait_until_recorded(self, state: State[None]) -> int:
        """Wait until the server knows how each task run of this flow run ended; return how many it knows."""
        query = {
            "flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}},
            "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        recorded, give_up_at = 0, time.monotonic() + _RECORDING_SECONDS
        async with httpx.AsyncClient(base_url=self._api_url, trust_env=False) as client:
            while recorded < self._count and time.monotonic() < give_up_at:
                await asyncio.sleep(0.25)
                recorded = (await client.post("/task_runs/count", json=query)).json()
        if recorded < self._count:
            say(f"  the server recorded only {recorded} of {self._count} task runs")
        return recorded


def _without_warm_up(what: str, unit: str, measured: tuple[list[float], list[float]]) -> Comparison:
    ours, baseline = (values[1:] for values in measured)
    return Comparison(what, unit, ours, baseline, "of empty tasks")
