"""Rotation of signing secrets: runs report the rotation in use, and the command waits for all runs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from resonant.errors import StoreError
from resonant.store.shared import signers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resonant.store import WorkerStore

# How often a run checks for a new rotation, and the command for runs that have not reported it.
POLL_SECONDS = 1.0


class Signing:
    """Reports the rotation in use for each open endpoint of a run.

    Args:
        store: stores the reports; see ``store/shared/signers.py``.
        owner: the run's id.
    """

    def __init__(self, store: WorkerStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._rotations: dict[str, Callable[[], float | None]] = {}
        self._reported: dict[str, float | None] = {}
        self._reported_at = asyncio.get_running_loop().time()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start reporting in the background."""
        self._task = asyncio.create_task(self._report_loop())

    async def stop(self) -> None:
        """Stop reporting; ``leave`` removes the reports."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def leave(self) -> None:
        """Remove this run's reports.

        Raises:
            StoreError: the reports cannot be removed; they will expire.
        """
        await self._store.write(signers.leave, self._owner, now=self._store.clock())

    async def announce(self, names: Sequence[str]) -> None:
        """Report that this run is about to read endpoints; call it before the read.

        Raises:
            StoreError: the report cannot be written; the endpoints must not be used.
        """
        await self._report(dict.fromkeys(names))

    async def withdraw(self, endpoint: str) -> None:
        """Remove the report of an announced endpoint that this run does not use, so that no rotation waits for it.

        Raises:
            StoreError: the report cannot be removed; it will expire.
        """
        await self._store.write(signers.withdraw, self._owner, endpoint)

    def follow(self, endpoint: str, rotation: Callable[[], float | None]) -> None:
        """Start reporting an endpoint's rotation; ``rotation`` returns the one in use."""
        self._rotations[endpoint] = rotation

    async def _report_loop(self) -> None:
        while True:
            rotations = {endpoint: rotation() for endpoint, rotation in self._rotations.items()}
            is_due = asyncio.get_running_loop().time() - self._reported_at > signers.BEAT_SECONDS
            if rotations != self._reported or (rotations and is_due):
                with contextlib.suppress(StoreError):  # the run's next commit raises the error
                    await self._report(rotations)
                    self._reported, self._reported_at = rotations, asyncio.get_running_loop().time()
            await asyncio.sleep(POLL_SECONDS)

    async def _report(self, rotations: dict[str, float | None]) -> None:
        await self._store.write(signers.report, self._owner, rotations, now=self._store.clock())


async def until_every_run_signs(
    store: WorkerStore, endpoint: str, rotation: float, *, patience: float, on_waiting: Callable[[int], None]
) -> int:
    """Wait until every live run uses this rotation of an endpoint's secret.

    Args:
        store: the store that the runs use.
        endpoint: the endpoint's name.
        rotation: the time that identifies the rotation. Save it first: runs that open the endpoint later are not counted.
        patience: the longest wait, in seconds.
        on_waiting: called with the number of runs that do not use the rotation yet, whenever it changes.

    Returns:
        The number of runs that do not use the rotation yet; 0 on success.
    """
    give_up_at = asyncio.get_running_loop().time() + patience
    said = 0
    while behind := await store.read(signers.behind, endpoint, rotation, now=store.clock()):
        if behind != said:
            on_waiting(behind)
            said = behind
        if asyncio.get_running_loop().time() > give_up_at:
            return behind
        await asyncio.sleep(POLL_SECONDS)
    return 0
