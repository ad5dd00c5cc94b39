"""A contender: a name, and a way to run it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benches.processes import Tree
from resonant.events import Event
from resonant.settings import Settings

# Connections of one asyncio process, or of two together.
IN_FLIGHT = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender runs.

    Attributes:
        settings: settings with an empty home.
        folder: its own empty folder.
        url: the receiver's URL.
    """

    settings: Settings
    folder: Path
    url: str

    @property
    def log(self) -> Path:
        """The log file of its processes."""
        return self.folder / "log"


@dataclass(frozen=True, slots=True)
class Running:
    """A contender whose processes have been started.

    Attributes:
        enqueue: enqueues events; returns when they have been accepted.
        workers: the ids of the processes that send, without their children.
        services: the process ids of the workers' services (Redis, PostgreSQL, Prefect's server), by name.
        wait: only for contenders that store nothing: waits until the worker has processed the last enqueued events, and
            returns the monotonic times when its first call began and its last call ended. Call it after each ``enqueue``.
        is_free: returns whether no worker holds a lock that delays the acceptance of events.
    """

    enqueue: Callable[[Sequence[Event]], None]
    workers: Sequence[int]
    services: dict[str, int] = field(default_factory=dict)
    wait: Callable[[], tuple[float, float]] | None = None
    is_free: Callable[[], bool] = lambda: True

    @property
    def worker_tree(self) -> Tree:
        """The sending processes, with their descendants."""
        return Tree(self.workers)

    @property
    def service_trees(self) -> dict[str, Tree]:
        """The workers' services, by name."""
        return {name: Tree([pid]) for name, pid in self.services.items()}


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to deliver events.

    Attributes:
        name: its name in the table.
        in_flight: concurrent sends of all its processes; task runs if they send nothing.
        start: runs it during a block; raises ``Missing`` if a part of it is not installed.
    """

    name: str
    in_flight: int
    start: Callable[[Place], AbstractContextManager[Running]]
