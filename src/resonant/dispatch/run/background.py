"""The background work of a run: it folds counts, wakes the run after commits, and hands over to younger drains."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from resonant.dispatch.limits import WAIT_SECONDS
from resonant.dispatch.run.processes import has_ended, this_process
from resonant.dispatch.run.running_tasks import RunningTasks
from resonant.errors import StoreError
from resonant.store import WorkerStore
from resonant.store.shared import drains

# How often accepted events and tallies are folded. Readers add up unfolded counts; each fold costs a few milliseconds.
FOLD_SECONDS = 5.0
# How long the last fold may take.
_LAST_FOLD_SECONDS = 1.0
# The shortest time between two wake-ups while commits go on.
_REST_SECONDS = 0.02


async def fold_regularly(store: WorkerStore) -> None:
    """Fold accepted events and tallies until cancelled, and then once more.

    Run it in the background, so that a claim never waits for a transaction that has locked a ledger.
    """
    try:
        while True:
            await _fold(store)
            await asyncio.sleep(FOLD_SECONDS)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_FOLD_SECONDS):
                await _fold(store)


async def _fold(store: WorkerStore) -> None:
    with contextlib.suppress(StoreError):  # the next fold tries again; the next claim reports an outage
        await store.fold()


async def wake_on_commits(store: WorkerStore, wake: Callable[[frozenset[str] | None], None]) -> None:
    """Call ``wake`` soon after each commit of new work, until cancelled, so that the run need not wait for the next poll.

    Args:
        wake: called with the endpoints that have new work; None if unknown.
    """
    async with contextlib.aclosing(store.database.commits()) as commits:
        async for endpoints in commits:
            wake(endpoints)
            await asyncio.sleep(_REST_SECONDS)


async def end_after_successors(
    store: WorkerStore, running: RunningTasks, key: int, *, owner: str, endpoint: str | None, successors: int
) -> None:
    """Report a run as a live drain until its end. End it when enough younger drains are alive; continue it if one of them dies.

    Also rescue the leases of drains of this machine that were killed.

    After its end, a run claims nothing more but may still finish sends, so it must not count as a successor.

    Args:
        store: the store in which drains report.
        running: the run's tasks and its end time.
        key: the key of its first report.
        owner: the owner of the run's leases.
        endpoint: the only endpoint that the run sends to; None for all.
        successors: the number of younger drains that must be alive.
    """
    latest_end = running.end
    had_successors = False
    try:
        while not running.is_over():
            with contextlib.suppress(StoreError):  # the run's next commit raises the error
                report = await join(store, key, owner=owner, endpoint=endpoint)
                key = report.key
                has_successors = report.younger >= successors
                if has_successors and not had_successors:
                    running.end_in(WAIT_SECONDS)  # so that retries that wait in this process are sent first
                elif had_successors and not has_successors:
                    running.end = latest_end
                had_successors = has_successors
                await store.rescue_ended(has_ended)
            await asyncio.sleep(min(drains.BEAT_SECONDS, running.seconds_left()))
    finally:
        with contextlib.suppress(StoreError):
            await store.write(drains.leave, key)


async def join(
    store: WorkerStore, key: int | None = None, *, owner: str, endpoint: str | None
) -> drains.Beat:
    """Report that this run is a live drain; first before its first claim."""
    facts: dict[str, Any] = {"owner": owner, "endpoint": endpoint, "process": this_process()}
    return await store.write(drains.beat, key, clock=store.clock, **facts)
