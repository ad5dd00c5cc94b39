"""The cost of counting: claim, begin and record through the store, in alternating rounds with rollups on and off.

Only store operations run, which is the worst case: with sends, the share of the rollups would be smaller. The unit is events
per second of CPU, since CPU limits an emission. In wall-clock time, noise from the disk and other processes would hide a
difference of 3 %.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from benches.comparing import Comparison, Round, Stopwatch, in_turn
from benches.surroundings import ENDPOINT, empty_home, events
from resonant.delivery.retry import Park
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.events import Attempt
from resonant.store import Outcome, WorkerStore

if TYPE_CHECKING:
    from resonant.events import Lease
    from resonant.settings import Settings

EVENTS = 10_000
ROUNDS = 7
_AT_LEAST = 0.97
_CLAIMED = 200  # the number that an emission claims at once for one endpoint
_IN_FLIGHT = 50
_FAILED_PART = 0.2


def run(count: int, rounds: int) -> list[Comparison]:
    """Measure, and return the results."""
    with empty_home() as settings:
        return asyncio.run(_compare(settings, count, rounds))


async def _compare(settings: Settings, count: int, rounds: int) -> list[Comparison]:
    settings.home.mkdir()
    names = (f"sqlite:///{settings.home / str(number)}" for number in itertools.count())

    def emission(*, rollups: bool, failed_part: float) -> Round:
        async def emit() -> float:
            store = await WorkerStore.open(next(names), rollups=rollups)
            try:
                await store.enqueue(events(count), ENDPOINT)
                await store.fold()
                with Stopwatch() as watch:
                    await _emit(store, random.Random(7), failed_part)
                    await store.fold()  # as a dispatcher does every few seconds
            finally:
                await store.close()
            return count / watch.cpu_seconds

        return emit

    comparisons = []
    for what, failed_part in (("All delivered", 0.0), ("A fifth fails and is parked", _FAILED_PART)):
        on, off = (emission(rollups=rollups, failed_part=failed_part) for rollups in (True, False))
        measured = await in_turn(on, off, rounds)
        comparisons.append(
            Comparison(
                f"{what}, counted", "events/s of CPU", *measured, "not counted", ratio_at_least=_AT_LEAST
            )
        )
    return comparisons


async def _emit(store: WorkerStore, rng: random.Random, failed_part: float) -> None:
    """Run an emission's store operations for each delivery, without the send."""
    commit = BatchWriter(store)

    async def one_after_the_other(leases: list[Lease]) -> None:
        while leases:
            lease = leases.pop()
            await commit.begin([lease])
            await commit.record(_outcome(store, lease, rng, failed_part))

    while claimed := await store.claim(ENDPOINT, owner="bench", limit=_CLAIMED):
        await asyncio.gather(*(one_after_the_other(claimed) for _ in range(_IN_FLIGHT)))
    await commit.close()


def _outcome(store: WorkerStore, lease: Lease, rng: random.Random, failed_part: float) -> Outcome:
    now = store.clock()
    attempt = Attempt(
        1, 1, started_at=now, duration=rng.lognormvariate(-3, 1), result="delivered", owner="bench"
    )
    if rng.random() >= failed_part:
        return Outcome(lease, attempt, None)
    decision = Park(delay := rng.uniform(3_000, 4_000), now + delay)
    return Outcome(lease, _failed(attempt, decision, rng.choice((500, 502, 503))), decision)


def _failed(attempt: Attempt, decision: Park, status: int) -> Attempt:
    return replace(
        attempt,
        result="failed",
        status_code=status,
        category="transient",
        code=f"http_{status}",
        blame="endpoint",
        error_type="UnexpectedStatus",
        error=f"the endpoint answered {status}",
        decision="park",
        delay=decision.delay,
        next_attempt_at=decision.next_attempt_at,
    )
