"""Handover to younger drains: a drain ends only while enough of them are alive."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant.dispatch.limits import WAIT_SECONDS
from resonant.errors import StoreError
from resonant.store.shared import drains

if TYPE_CHECKING:
    from resonant.dispatch.run.running_tasks import RunningTasks
    from resonant.store import WorkerStore


async def end_after_successors(
    store: WorkerStore, running: RunningTasks, *, owner: str, endpoint: str | None, successors: int
) -> None:
    """Report a run as a live drain until its end. End it when enough younger drains are alive; continue it if one of them dies.

    After its end, a run claims nothing more but may still finish sends, so it must not count as a successor.

    Args:
        store: the store in which drains report.
        running: the run's tasks and its end time.
        owner: the owner of the run's leases.
        endpoint: the only endpoint that the run sends to; None for all.
        successors: the number of younger drains that must be alive.
    """
    latest_end = running.end
    key = None
    had_successors = False
    try:
        while not running.is_over():
            with contextlib.suppress(StoreError):  # the run's next commit raises the error
                report = await store.write(
                    drains.beat, key, owner=owner, endpoint=endpoint, clock=store.clock
                )
                key = report.key
                has_successors = report.younger >= successors
                if has_successors and not had_successors:
                    running.end_in(WAIT_SECONDS)  # so that retries that wait in this process are sent first
                elif had_successors and not has_successors:
                    running.end = latest_end
                had_successors = has_successors
            await asyncio.sleep(min(drains.BEAT_SECONDS, running.seconds_left()))
    finally:
        if key is not None:
            with contextlib.suppress(StoreError):
                await store.write(drains.leave, key)
