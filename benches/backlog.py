"""New events behind an old backlog, with a real drain: how long they wait, and what the backlog gets.

The endpoint accepts 40 requests a second and answers 503 to the rest; its gate is paced. New events arrive at a quarter of the pace,
with and without deliveries that are an hour old.
"""

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import NamedTuple

from sqlalchemy import Connection, select

from benches.comparing import Comparison, apart, say
from benches.outage_receiver import Behaviour, outage_receiver
from benches.processes import kept, python
from benches.surroundings import ENDPOINT, empty_home, events, prefect_server, save_endpoint, wait_for_runs
from resonant.store import WorkerStore, schema
from resonant.store.shared.gates import Gate, GateChange, change_gate

EVENTS, ROUNDS = 10_000, 3
_CAPACITY = 40
_NEW_PER_SECOND = _CAPACITY / 4
_SECONDS = 40.0
_AGE_SECONDS = 3_600.0


class _Outcome(NamedTuple):
    """The longest wait of a new event for its first attempt, in seconds, and the old events delivered per second."""

    wait: float
    old: float


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: old events.
        rounds: runs with and without them.
    """
    behind, alone = [], []
    for _ in range(rounds):
        behind.append(apart(_measure, count))
        alone.append(apart(_measure, 0))
        say(f"  behind {count:,} old events: {behind[-1]}; without them: {alone[-1]}")
    waits, bare = [each.wait for each in behind], [each.wait for each in alone]
    rest = [_CAPACITY - _NEW_PER_SECOND] * rounds
    return [
        Comparison(
            "longest wait of a new event",
            "s",
            waits,
            bare,
            "without a backlog",
            ours_at_most=max(bare) + 2,
        ),
        Comparison(
            "the backlog",
            "events/s",
            [each.old for each in behind],
            rest,
            "of the rest",
            ratio_at_least=0.9,
        ),
    ]


def _measure(count: int) -> _Outcome:
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        receiver = stack.enter_context(outage_receiver(Behaviour(capacity=_CAPACITY)))
        api_url = stack.enter_context(prefect_server(settings))
        runner = stack.enter_context(asyncio.Runner())
        runner.run(save_endpoint(receiver.url))
        runner.run(_prepare(settings.store_url, count))
        log = settings.home.parent / "drain.log"
        drain = python("benches.contenders.workers.drain")
        stack.enter_context(kept(drain, log=log, variables={"BENCH_LANE": "auto"}))
        receiver.listen_after(0)
        runner.run(wait_for_runs(api_url, 1))
        return runner.run(_produce(settings.store_url))


async def _prepare(url: str, count: int) -> None:
    """Store old events, and let the gate pace the endpoint."""
    store = await WorkerStore.open(url, clock=lambda: time.time() - _AGE_SECONDS)
    for start in range(0, count, 1_000):
        await store.enqueue(events(min(1_000, count - start)), ENDPOINT)
    gate = Gate(ENDPOINT)
    paced = replace(gate, state="paced", since=time.time(), pace=float(_CAPACITY))
    await store.write(change_gate, GateChange(gate, paced))
    await store.close()


async def _produce(url: str) -> _Outcome:
    store = await WorkerStore.open(url)
    began_at = time.time()
    for event in events(int(_NEW_PER_SECOND * _SECONDS)):
        await store.enqueue([event], ENDPOINT)
        await asyncio.sleep(1 / _NEW_PER_SECOND)
    ended_at = time.time()
    await asyncio.sleep(2)
    outcome = await store.read(_outcome, began_at, ended_at)
    await store.close()
    return outcome


def _outcome(connection: Connection, began_at: float, ended_at: float) -> _Outcome:
    table = schema.deliveries.c
    rows = connection.execute(select(table.accepted_at, table.first_attempt_at, table.finished_at)).all()
    waits = [
        (row.first_attempt_at or time.time()) - row.accepted_at for row in rows if row.accepted_at >= began_at
    ]
    old = sum(row.accepted_at < began_at <= (row.finished_at or 0.0) < ended_at for row in rows)
    return _Outcome(max(waits), old / (ended_at - began_at))
