"""The producers of a world: they repeat an event until it is accepted."""

import asyncio
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from resonant.errors import StoreError, UnroutedEvent
from resonant.events import Event
from resonant.intake.requests.group_commit import GroupCommit
from resonant.intake.requests.lock_turns import LockTurns
from simulation.broken import Broken
from simulation.loop import Process
from simulation.operators import SUBJECTS
from simulation.plan import CALM_SECONDS, TYPES

if TYPE_CHECKING:
    from simulation.world import World

SECRET = "secret-of-"
LARGEST_BODY = 3_100
_PRODUCERS = 3


class Producers:
    """Producers over HTTP, whose events share transactions, and producers with their own.

    Attributes:
        accepted: the ids of the events that were answered with success, each with an endpoint; None for the subscriptions'.
        left: how many producers still have events.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self.accepted: list[tuple[str, str | None]] = []
        self.left = 0

    @property
    def are_done(self) -> bool:
        return not self.left

    def start(self) -> None:
        """Start the producers, each with its part of the events."""
        for number in range(_PRODUCERS):
            process = self._world.process(f"p{number}")
            self.left += 1
            process.start(self._produce(process, number)).add_done_callback(partial(self._ended, process))

    def _ended(self, process: Process, task: "asyncio.Task[None]") -> None:
        self.left -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.observer.fail(Broken("error", f"{process.name}: {error!r}", error))

    async def _produce(self, process: Process, number: int) -> None:
        world, rng = self._world, self._world.rng(process.name)
        store = world.open_store(process)
        group = GroupCommit(store, LockTurns(store))
        pause = _PRODUCERS * (world.plan.seconds + CALM_SECONDS) / world.plan.events
        tasks = []
        shares = rng.choice(((70, 20, 5, 5), (50, 10, 2, 40)))
        backlog = world.plan.events * rng.choice((0.0, 0.2, 0.6))
        for each in range(number, world.plan.events, _PRODUCERS):
            event = _event(each, rng, shares)
            endpoint = None if rng.random() < 0.1 else rng.choice(world.endpoints)
            via_group = rng.random() < 0.7
            tasks.append(
                process.start(self._accept(store, group if via_group else None, event, endpoint, rng))
            )
            if each > backlog and rng.random() < 0.1:  # in bursts
                await asyncio.sleep(10 * rng.expovariate(1 / pause))
        for task in tasks:
            await task

    async def _accept(
        self, store, group: GroupCommit | None, event: Event, endpoint: str | None, rng: Random
    ) -> None:
        while True:
            try:
                if group is not None:
                    if (await group.accept(event, endpoint)).problem is not None:
                        return
                else:
                    await store.enqueue(event, endpoint)
            except StoreError:
                await asyncio.sleep(1.0)
            except UnroutedEvent:
                return
            else:
                self.accepted.append((event.id, endpoint))
                if rng.random() < 0.6:
                    return
                await asyncio.sleep(rng.uniform(0.0, 60.0))  # and then repeat it, maybe for another endpoint
                endpoint = rng.choice((endpoint, rng.choice(self._world.endpoints)))


def subject_of(event_id: str) -> str:
    """Return the subject of an event."""
    return f"s{int(event_id[1:]) % SUBJECTS}"


def _event(number: int, rng: Random, shares: tuple[int, ...]) -> Event:
    kind = rng.choices(TYPES, shares)[0]
    data = {"text": f"{SECRET}{number}.", "padding": "x" * rng.choice((10, 100, 3_000))}
    return Event(type=kind, source="/shop", id=f"n{number}", subject=subject_of(f"n{number}"), data=data)
