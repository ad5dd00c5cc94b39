"""What a contender is: a name, and a way to have it run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benches.processes import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from resonant.events import Event
    from resonant.settings import Settings

# Connections of one process on asyncio, and of two together.
IN_FLIGHT = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender runs.

    Attributes:
        settings: of an empty home.
        folder: an empty one, of its own.
        url: of the receiver.
    """

    settings: Settings
    folder: Path
    url: str

    @property
    def log(self) -> Path:
        """A file for what its processes say."""
        return self.folder / "log"


@dataclass(frozen=True, slots=True)
class Running:
    """A contender whose processes have been started.

    Attributes:
        enqueue: hands events over, for sending; returns when they have been accepted.
        workers: the ids of the processes that send, without their children.
        services: of what the workers lean on (Redis, PostgreSQL, Prefect's server), by name.
        sends: whether the receiver gets what was enqueued.
        wait: where nothing is kept: waits until the worker says that it has done what was enqueued last, and returns when
            its first call began and its last one ended, on the machine's monotonic clock. Each enqueuing is waited for.
        is_free: whether no worker holds a lock that events wait for before they are accepted.
    """

    enqueue: Callable[[Sequence[Event]], None]
    workers: Sequence[int]
    services: dict[str, int] = field(default_factory=dict)
    sends: bool = True
    wait: Callable[[], tuple[float, float]] | None = None
    is_free: Callable[[], bool] = lambda: True

    @property
    def worker_tree(self) -> Tree:
        """The processes that send, with all that they have started."""
        return Tree(self.workers)

    @property
    def service_trees(self) -> dict[str, Tree]:
        """What the workers lean on, by name."""
        return {name: Tree([pid]) for name, pid in self.services.items()}


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to get events delivered.

    Attributes:
        name: as the table says it.
        in_flight: sends at the same time, of all its processes together; task runs where they send nothing.
        start: has it run for as long as a block; raises ``Missing`` where a part of it is not installed.
    """

    name: str
    in_flight: int
    start: Callable[[Place], AbstractContextManager[Running]]
