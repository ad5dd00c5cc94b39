"""Compares retry policies, each with and without the gate, over several seeds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import get_args

from resonant.delivery.retry import Jitter, RetryPolicy
from resonant.lab.results import SimulationResult
from resonant.lab.scenario import Scenario
from resonant.lab.simulation import simulate

COMPARED = ("none", "classic", "equal", "full", "decorrelated")

# The chart begins `_BEFORE` seconds before the end of the outage. It ends `_AFTER` seconds or `_DRAINS` times the shortest
# drain after it, whichever is later.
_BEFORE, _AFTER, _DRAINS = 30, 60, 4


@dataclass(frozen=True, slots=True)
class Variant:
    """One policy, with or without the gate, and its runs.

    Attributes:
        policy: the name of the policy.
        has_gate: whether a gate limits the sends.
        results: one result per seed.
    """

    policy: str
    has_gate: bool
    results: Sequence[SimulationResult]

    def mean(self, figure: str) -> float:
        """Return a figure's mean over the seeds."""
        return float(mean(getattr(result, figure) for result in self.results))

    def worst(self, figure: str) -> float:
        """Return a figure's highest value over the seeds."""
        return float(max(getattr(result, figure) for result in self.results))

    @property
    def given_up(self) -> int:
        """Dead letters in the worst seed."""
        return max(result.given_up for result in self.results)

    @property
    def unfinished(self) -> int:
        """Unfinished deliveries in the worst seed."""
        return max(result.unfinished for result in self.results)


def policies_by_jitter() -> dict[str, RetryPolicy]:
    """Return the default policy with each jitter, keyed by the jitter."""
    return {jitter: replace(RetryPolicy(), jitter=jitter) for jitter in get_args(Jitter)}


def compare(
    scenario: Scenario,
    policies: Mapping[str, RetryPolicy],
    *,
    seeds: int,
    done: Callable[[], None] = lambda: None,
) -> Iterator[Variant]:
    """Simulate each policy without and with the gate.

    Args:
        scenario: the scenario.
        policies: the policies, keyed by name.
        seeds: the number of runs per variant; the seeds are 1, 2, 3 ...
        done: called after each run.
    """
    for name, policy in policies.items():
        for has_gate in (False, True):
            results = []
            for seed in range(1, seeds + 1):
                results.append(simulate(scenario, policy, has_gate=has_gate, seed=seed))
                done()
            yield Variant(name, has_gate, results)


def window(scenario: Scenario) -> tuple[int, int]:
    """Return the first and the last second to show, around and after the end of the outage."""
    first = max(0, int(scenario.outage) - _BEFORE)
    return first, int(scenario.outage + max(_AFTER, _DRAINS * scenario.shortest_drain))


def seen(variant: Variant, first: int, last: int) -> list[int]:
    """Return the requests per second of the first seed."""
    requests = variant.results[0].requests
    return [requests[second] if second < len(requests) else 0 for second in range(first, last)]
