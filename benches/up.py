"""`resonant up` and `resonant enqueue`: a backlog, single events to a quiet system, and events at half the rate of the backlog.

The baseline is a bare httpx loop to the same receiver, which ends before our part begins. CPU includes `resonant up` with its
server, worker and drains, but not the receiver. A latency is the time from handing an event to the store to its request.
``--only PART`` selects by a part of the name. Without the backlog, the rate of the last part is half of the target.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Sequence

import httpx
from httpx_aiohttp import AiohttpTransport

from benches.comparing import Comparison, Stopwatch, is_chosen, say
from benches.processes import Tree, wait_until_quiet
from benches.receiver import Receiver, counting_receiver
from benches.surroundings import ENDPOINT, empty_home, events, running_up, save_endpoint
from resonant.settings import Settings
from resonant.store import WorkerStore

EVENTS, ROUNDS = 10_000, 3
_PARTS = ("backlog", "quiet", "half the rate")
_RATE_AT_LEAST = 2_000.0
_CPU_AT_MOST = 1.0
_P50_AT_MOST, _P99_AT_MOST = 20.0, 150.0
_QUIET_SECONDS = 30.0
# A count that the receiver does not reach, so that it prints nothing on its own.
_NEVER_REACHED = 0
_POLL_SECONDS = 0.02
# Single events to a quiet system, with a pause between them.
_SINGLE_EVENTS, _SINGLE_PAUSE_SECONDS = 20, 0.2
_INTERVAL_SECONDS = 0.05
# In its first second, a run still sends single events as task runs.
_WARM_UP_SECONDS = 2.0


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events of a backlog.
        rounds: rounds of each part.
        only: parts of names; empty for all.
    """
    chosen = [name for name in _PARTS if is_chosen(name, only)]
    with empty_home() as settings, counting_receiver() as receiver, running_up(settings) as up:
        return asyncio.run(_measure(settings, receiver, Tree([up]), count, rounds, chosen))


async def _measure(
    settings: Settings, receiver: Receiver, up: Tree, count: int, rounds: int, chosen: list[str]
) -> list[Comparison]:
    found: list[Comparison] = []
    rate = _RATE_AT_LEAST
    await save_endpoint(receiver.url)
    store = await WorkerStore.open(settings.store_url)
    try:
        bench = _Up(store, receiver, up, settings.endpoint_concurrency, rounds)
        if "backlog" in chosen:
            found += await bench.backlog(count)
            rate = statistics.median(found[0].ours)
        if "quiet" in chosen:
            found += await bench.single_events()
        if "half the rate" in chosen:
            found += await bench.at_rate(rate / 2, count)
    finally:
        await store.close()
    return found


class _Up:
    def __init__(self, store: WorkerStore, receiver: Receiver, up: Tree, in_flight: int, rounds: int) -> None:
        self._store = store
        self._receiver = receiver
        self._up = up
        self._in_flight = in_flight
        self._rounds = rounds

    async def backlog(self, count: int) -> list[Comparison]:
        """Measure the throughput and the CPU of a backlog."""
        rates, bare, cpu = [], [], []
        for _ in range(self._rounds):
            self._wait_until_quiet()
            bare.append(await _post_all(self._receiver.url, count, self._in_flight))
            before = self._up.cpu_seconds()
            with Stopwatch() as watch:
                await self._store.enqueue(events(count), ENDPOINT)
                await self._until_delivered()
            rates.append(count / watch.seconds)
            self._wait_until_quiet()  # Prefect records the task runs
            cpu.append((self._up.cpu_seconds() - before) * 1000 / count)
            say(f"  {rates[-1]:.0f} events/s, {cpu[-1]:.2f} ms of CPU per event; bare {bare[-1]:.0f}/s")
        one_core = [1000 / rate for rate in bare]
        return [
            Comparison(
                "a backlog",
                "events/s",
                rates,
                bare,
                "for a bare httpx loop",
                ours_at_least=_RATE_AT_LEAST,
            ),
            Comparison(
                "CPU of all processes of `up`",
                "ms per event",
                cpu,
                one_core,
                "of wall time of the loop",
                ours_at_most=_CPU_AT_MOST,
            ),
        ]

    async def single_events(self) -> list[Comparison]:
        """Measure the latency of single events to a quiet system, and count their task runs."""
        latencies, bare, task_runs = [], [], []
        for _ in range(self._rounds):
            self._wait_until_quiet()
            bare.append(await self._bare_latency())
            before = await _task_runs()
            self._receiver.expect(_NEVER_REACHED)
            stored_at = {}
            for event in events(_SINGLE_EVENTS):
                stored_at[event.id] = time.monotonic()
                await self._store.enqueue([event], ENDPOINT)
                await asyncio.sleep(_SINGLE_PAUSE_SECONDS)
            await self._until_delivered()
            latencies.append(statistics.median(self._latencies(stored_at)))
            self._wait_until_quiet()
            task_runs.append(float(await _task_runs() - before))
            say(
                f"  {_SINGLE_EVENTS} single events: {task_runs[-1]:.0f} task runs, p50 {latencies[-1]:.1f} ms"
            )
        return [
            Comparison(
                "single events to a quiet system: task runs",
                "task runs",
                task_runs,
                [float(_SINGLE_EVENTS)] * self._rounds,
                "events",
                ratio_at_least=1.0,
                ratio_at_most=1.0,
            ),
            Comparison(
                "single events to a quiet system: latency, p50",
                "ms",
                latencies,
                bare,
                "for a bare request",
                ours_at_most=_P50_AT_MOST,
            ),
        ]

    async def at_rate(self, rate: float, count: int) -> list[Comparison]:
        """Measure the latency of single events while events arrive at this rate."""
        p50, p99, bare = [], [], []
        for _ in range(self._rounds):
            self._wait_until_quiet()
            bare.append(await self._bare_latency())
            self._receiver.expect(_NEVER_REACHED)
            stored_at = await self._produce(rate, count)
            await self._until_delivered()
            latencies = statistics.quantiles(self._latencies(stored_at), n=100, method="inclusive")
            p50.append(latencies[49])
            p99.append(latencies[98])
            say(
                f"  {rate:.0f} events/s: {len(stored_at)} single events, p50 {p50[-1]:.1f}, p99 {p99[-1]:.1f} ms"
            )
        return [
            Comparison(
                f"single events while {rate:,.0f} arrive per second: latency, {name}",
                "ms",
                measured,
                bare,
                "for a bare request, p50",
                ours_at_most=at_most,
            )
            for name, measured, at_most in (("p50", p50, _P50_AT_MOST), ("p99", p99, _P99_AT_MOST))
        ]

    async def _produce(self, rate: float, count: int) -> dict[str, float]:
        """Store events at this rate, in small batches with a single event between them; return the times of those."""
        stored_at = {}
        began_at, left = time.monotonic(), events(count)
        for number in range(int(count / (rate * _INTERVAL_SECONDS))):
            at = began_at + number * _INTERVAL_SECONDS
            due = count - round((number + 1) * rate * _INTERVAL_SECONDS)
            await asyncio.sleep(at - time.monotonic())
            await self._store.enqueue([left.pop() for _ in range(len(left) - due - 1)], ENDPOINT)
            await asyncio.sleep(at + _INTERVAL_SECONDS / 2 - time.monotonic())
            single = left.pop()
            if time.monotonic() >= began_at + _WARM_UP_SECONDS:
                stored_at[single.id] = time.monotonic()
            await self._store.enqueue([single], ENDPOINT)
        return stored_at

    async def _bare_latency(self) -> float:
        latencies = []
        async with httpx.AsyncClient(trust_env=False) as client:
            for event in events(_SINGLE_EVENTS):
                with Stopwatch() as watch:
                    await client.post(self._receiver.url, content=event.body)
                latencies.append(watch.seconds * 1000)
        return statistics.median(latencies)

    def _latencies(self, stored_at: dict[str, float]) -> list[float]:
        """Return the milliseconds from storing events to their requests."""
        arrivals = self._receiver.arrivals()
        return [(arrivals[key] - at) * 1000 for key, at in stored_at.items()]

    async def _until_delivered(self) -> None:
        while await self._store.unfinished():
            await asyncio.sleep(_POLL_SECONDS)

    def _wait_until_quiet(self) -> None:
        wait_until_quiet([self._up], _QUIET_SECONDS)


async def _post_all(url: str, count: int, in_flight: int) -> float:
    """Post events in a bare httpx loop; return how many per second."""
    left = iter(events(count))

    async def one_after_the_other(client: httpx.AsyncClient) -> None:
        for event in left:
            headers = {"content-type": "application/json"}
            answer = await client.post(url, content=event.body, headers=headers)
            answer.raise_for_status()

    with Stopwatch() as watch:
        async with httpx.AsyncClient(transport=AiohttpTransport(), trust_env=False) as client:
            await asyncio.gather(*(one_after_the_other(client) for _ in range(in_flight)))
    return count / watch.seconds


async def _task_runs() -> int:
    async with httpx.AsyncClient(base_url=os.environ["PREFECT_API_URL"], trust_env=False) as client:
        return int((await client.post("/task_runs/count", json={})).json())
