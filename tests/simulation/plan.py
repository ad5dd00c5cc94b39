"""What happens in a world: drawn from a seed, and shortened after a failure."""

from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from simulation.operators import ACTIONS
from simulation.receivers import MODES

TYPES = ("order.paid", "order.shipped", "order.refused", "order.broken")
# What happens to a process.
PROCESS_FAULTS = ("kill", "stop", "freeze", "set clock")
# The number of the operator that started last, among the processes.
NEWEST_OPERATOR = -1
# Small worlds with many faults find more in the same time.
SIZES: tuple[dict[str, float], ...] = (
    {"seconds": 120.0, "events": 150, "endpoints": 2, "processes": 2},
    {"seconds": 150.0, "events": 250, "endpoints": 4},
    {"seconds": 180.0, "events": 200, "endpoints": 3, "processes": 3},
)
# For how long events are produced, and event types fail, after the last fault.
CALM_SECONDS = 30.0
# The size at which speed is measured.
FULL: dict[str, float] = {"seconds": 600.0, "events": 2_000, "endpoints": 8}


class Fault(NamedTuple):
    """Something that happens at a time.

    Attributes:
        at: seconds after the start.
        kind: kill, stop, freeze, set clock, set server clock, away, lock, trouble, a mode of a receiver, or an operator's action.
        of: the number of the process or endpoint; NEWEST_OPERATOR for that process.
        seconds: its duration.
        amount: how far a clock is set, in seconds.
    """

    at: float
    kind: str
    of: int = 0
    seconds: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.at:.1f} s: {self.kind} {self.of}, {self.seconds:.1f} s, {self.amount:+.1f}"


@dataclass(frozen=True)
class Plan:
    """A world's size and faults.

    Attributes:
        seconds: for how long faults occur.
        skews: how far the clock of each process is ahead at first, in seconds.
    """

    seed: int
    seconds: float
    endpoints: int
    events: int
    processes: int = 4
    lease_seconds: float = 60.0
    skews: tuple[float, ...] = ()
    faults: tuple[Fault, ...] = ()

    @classmethod
    def draw(cls, seed: int, **size: float) -> "Plan":
        """Draw a plan; ``size`` replaces the defaults."""
        rng = Random(f"{seed}/plan")
        plan = cls(seed, **(rng.choice(SIZES) | size))
        skews = tuple(rng.choice((0.0, 0.0, 3.0, -40.0, 40.0)) for _ in range(plan.processes))
        plan = replace(plan, lease_seconds=rng.choice((15.0, 15.0, 15.0, 30.0)), skews=skews)
        faults = _faults(plan, rng)
        faults += _faults_of_operators(plan, faults, Random(f"{seed}/operators"))
        return replace(plan, faults=tuple(sorted(faults)))

    def shorter(self) -> "list[Plan]":
        """Return plans with less in them, the smallest first."""
        faults = self.faults
        halves = [faults[: len(faults) // 2], faults[len(faults) // 2 :]] if len(faults) > 3 else []
        fewer = [*halves, *(faults[:number] + faults[number + 1 :] for number in range(len(faults)))]
        found = [replace(self, faults=some) for some in fewer]
        if self.events > 10:
            found.insert(0, replace(self, events=self.events // 2))
        if (last := self.processes - 1) > 0:
            others = tuple(each for each in faults if each.kind not in PROCESS_FAULTS or each.of < last)
            found.insert(0, replace(self, processes=last, skews=self.skews[:last], faults=others))
        if (last := self.endpoints - 1) > 0:
            others = tuple(each for each in faults if each.kind not in (*MODES, *ACTIONS) or each.of < last)
            found.insert(0, replace(self, endpoints=last, faults=others))
        return found


def _faults(plan: Plan, rng: Random) -> list[Fault]:
    def some(often: float) -> list[float]:
        """Return times that are about this many seconds apart: in one world many, in another few or none."""
        often *= rng.choice((0.2, 0.5, 1.0, 2.0)) * min(1.0, plan.seconds / 300)
        times, at = [], rng.expovariate(1 / often) if rng.random() < share else plan.seconds
        while at < plan.seconds:
            times.append(at)
            at += rng.expovariate(1 / often)
        return times

    def seconds(longest: float) -> float:
        """Return a duration: mostly short, and sometimes longer than a lease and the watch of a rescue."""
        return longest * (rng.random() ** 2 if rng.random() < 0.6 else rng.uniform(0.5, 1.0))

    # With fewer kinds, some kinds go on for longer.
    share, lease, found = rng.choice((0.5, 0.9)), plan.lease_seconds, []
    process, endpoint = lambda: rng.randrange(plan.processes), lambda: rng.randrange(plan.endpoints)
    found += [Fault(at, "kill", process(), seconds(20.0)) for at in some(60)]
    found += [Fault(at, "stop", process(), seconds(5.0)) for at in some(45)]
    found += [Fault(at, "freeze", process(), seconds(3 * lease)) for at in some(60)]
    found += [Fault(at, "away", 0, seconds(2 * lease)) for at in some(200)]
    found += [Fault(at, "lock", 0, seconds(25.0)) for at in some(200)]
    found += [Fault(at, "trouble", rng.randrange(5), seconds(30.0)) for at in some(60)]
    jumps = (-3600.0, -90.0, -10.0, 10.0, 90.0, 3600.0)
    found += [Fault(at, "set clock", process(), 0, rng.choice(jumps)) for at in some(200)]
    if rng.random() < 0.5:
        found += [Fault(at, "set server clock", 0, 0, rng.choice(jumps)) for at in some(300)]
    found += [Fault(at, rng.choice(MODES), endpoint(), seconds(120.0)) for at in some(45)]
    found += [Fault(at, rng.choice([*ACTIONS, "cancel", "erase"]), endpoint()) for at in some(12)]
    found = [_beside(rng.choice(found), each, rng) if rng.random() < 0.3 else each for each in found]
    found = [each for each in found if each.at < plan.seconds]
    if rng.random() < 0.6:  # what no later restart of a process repairs
        found.append(
            Fault(plan.seconds + rng.uniform(0.8, 1.0) * CALM_SECONDS, "set server clock", 0, 0, -3600.0)
        )
    return found


def _faults_of_operators(plan: Plan, faults: list[Fault], rng: Random) -> list[Fault]:
    """Draw faults of operators: most of them while their action, which takes less than a second, has only begun."""
    began = [each.at for each in faults if each.kind in ACTIONS and rng.random() < 0.5]
    return [
        Fault(
            at + rng.expovariate(rng.choice((30.0, 1.0))),
            rng.choice(("kill", "stop", "freeze")),
            NEWEST_OPERATOR,
            rng.uniform(0.0, 3 * plan.lease_seconds),
        )
        for at in began
    ]


def _beside(other: Fault, fault: Fault, rng: Random) -> Fault:
    """Return a fault that begins shortly after another one begins or ends: together, they find more."""
    return fault._replace(at=other.at + rng.choice((0.0, other.seconds)) + rng.expovariate(1.0))
