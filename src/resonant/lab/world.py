"""The state that the simulated processes share: the time, the row of the gate, and the deliveries."""

import random
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count

from resonant.delivery.retry import RetryPolicy
from resonant.lab.receiver import SimulatedReceiver
from resonant.lab.results import Journal
from resonant.lab.scenario import Scenario
from resonant.store.shared.gates import Gate, GateChange, Probe

ENDPOINT = "simulated"


class Agenda:
    """Simulated time, with scheduled calls."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Schedule a call; a time in the past means now."""
        heappush(self._events, (max(when, self.now), next(self._number), what))

    def run(self, until: Callable[[], bool], latest: float) -> None:
        """Make the scheduled calls in order, until the work is done or the latest time is reached."""
        while self._events and not until():
            when, _, what = heappop(self._events)
            if when > latest:
                return
            self.now = when
            what()


@dataclass(slots=True, eq=False)
class SimulatedDelivery:
    """The state of one delivery in the store."""

    id: int
    event_type: int
    started_at: float
    due_at: float
    attempts: int = 0
    round_attempts: int = 0
    last_delay: float | None = None
    backoff_until: float | None = None


class SimulatedStore:
    """An in-memory store of the gate's row and the deliveries; a claim takes the earliest due deliveries."""

    def __init__(self) -> None:
        self.gate = Gate(ENDPOINT)
        self.delivered_at = float("-inf")
        self.next_slot = 0.0
        self.on_change: Callable[[], None] = lambda: None
        self._last = 0
        # By event type.
        self._due: dict[int, list[tuple[float, int, SimulatedDelivery]]] = defaultdict(list)

    def write(self, change: GateChange) -> bool:
        """Write a change of the row with compare-and-set; return whether it was written."""
        since = change.none_delivered_since
        if change.before.epoch != self.gate.epoch or (since is not None and self.delivered_at > since):
            return False
        self.gate = change.result
        self.on_change()
        return True

    def add(self, delivery: SimulatedDelivery) -> None:
        """Add a delivery, which can be claimed once it is due."""
        heappush(self._due[delivery.event_type], (delivery.due_at, delivery.id, delivery))

    def record_delivered(self, now: float) -> None:
        """Record a delivery, some time after its answer."""
        self.delivered_at = now

    def next_due(self) -> float:
        """Return when the next delivery is due."""
        return min((due[0][0] for due in self._due.values() if due), default=float("inf"))

    def claim(
        self, now: float, limit: int, *, in_turn: bool, leave_out: Collection[str]
    ) -> list[SimulatedDelivery]:
        """Claim deliveries that are due: the earliest, or of each type in turn."""
        names = sorted(name for name in self._due if str(name) not in leave_out)
        queues = [
            self._due[name]
            for name in [*(n for n in names if n > self._last), *(n for n in names if n <= self._last)]
        ]
        found: list[SimulatedDelivery] = []
        while len(found) < limit and (due := [each for each in queues if each and each[0][0] <= now]):
            chosen = due[: limit - len(found)] if in_turn else [min(due)]
            found += [heappop(each)[2] for each in chosen]
        if found:
            self._last = max((each.event_type for each in found), key=lambda name: (name <= self._last, name))
        if in_turn and found:
            random.Random(found[0].id).shuffle(found)
        return found

    def claim_probe(self, probe: Probe, now: float) -> SimulatedDelivery | None:
        """Reserve a probe and claim a delivery: of the type with the lowest rank, with the fewest attempts."""
        types = [name for name, due in self._due.items() if due and due[0][0] <= now]
        allowed = [name for name in types if probe.types is None or str(name) in probe.types]
        allowed.sort(key=lambda name: probe.rank(str(name)))
        if not allowed or not self.write(probe.change(str(allowed[0]))):
            return None
        due = self._due[allowed[0]]
        best = min((each for each in due if each[0] <= now), key=lambda each: (each[2].attempts, each[:2]))
        due.remove(best)
        heapify(due)
        return best[2]


@dataclass(slots=True)
class World:
    """The state that the simulated processes share.

    Attributes:
        has_gate: whether gates limit the sends.
    """

    scenario: Scenario
    policy: RetryPolicy
    receiver: SimulatedReceiver
    has_gate: bool
    agenda: Agenda = field(default_factory=Agenda)
    store: SimulatedStore = field(default_factory=SimulatedStore)
    journal: Journal = field(default_factory=Journal)
