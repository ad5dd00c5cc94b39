"""The state that the simulated processes share: the time, the row of the gate, and the deliveries."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from itertools import count

from resonant.delivery.retry import RetryPolicy
from resonant.lab.receiver import SimulatedReceiver
from resonant.lab.results import Journal
from resonant.lab.scenario import Scenario
from resonant.store.shared.gates import Gate, GateChange

ENDPOINT = "simulated"
_PROBE_CANDIDATES = 1_000


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
        self._due: list[tuple[float, int, SimulatedDelivery]] = []

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
        heappush(self._due, (delivery.due_at, delivery.id, delivery))

    def next_due(self) -> float:
        """Return when the next delivery is due."""
        return self._due[0][0] if self._due else float("inf")

    def claim(self, now: float, limit: int) -> list[SimulatedDelivery]:
        """Claim deliveries that are due."""
        found: list[SimulatedDelivery] = []
        while len(found) < limit and self._due and self._due[0][0] <= now:
            found.append(heappop(self._due)[2])
        return found

    def claim_probe(self, change: GateChange, now: float) -> SimulatedDelivery | None:
        """Reserve a probe and claim a delivery: preferably of another type than the last, with the fewest attempts."""
        due = sorted(each for each in self._due if each[0] <= now)
        found = due[:_PROBE_CANDIDATES]
        if not found:
            return None
        before = change.before.probed_type
        best = min(found, key=lambda each: (str(each[2].event_type) == before, each[2].attempts, each[:2]))
        after = replace(change.after, probed_type=str(best[2].event_type))
        if not self.write(replace(change, after=after)):
            return None
        self._due.remove(best)
        heapify(self._due)
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
