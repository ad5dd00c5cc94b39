"""Run a scenario in simulated time."""

import random
from functools import partial

from resonant.delivery.retry import RetryPolicy
from resonant.lab.process import Process
from resonant.lab.receiver import POISON_TYPE, SimulatedReceiver
from resonant.lab.results import SimulationResult, measure
from resonant.lab.scenario import Scenario
from resonant.lab.world import SimulatedDelivery, World

_DAY = 86_400.0


class Simulation:
    """One run of a scenario.

    Args:
        scenario: the scenario to simulate.
        policy: the retry policy.
        has_gate: whether a gate limits the sends.
        seed: the same seed gives the same run.
    """

    def __init__(
        self, scenario: Scenario, policy: RetryPolicy, *, has_gate: bool = True, seed: int = 1
    ) -> None:
        self.scenario = scenario
        self._rng = random.Random(seed)
        receiver = SimulatedReceiver(scenario, random.Random(self._rng.random()))
        self._world = World(scenario, policy, receiver, has_gate)
        self.agenda, self.journal = self._world.agenda, self._world.journal
        self._deliveries = [self._delivery(number) for number in range(scenario.events)]
        self._processes = [
            Process(f"process-{number}", random.Random(self._rng.random()), self._world)
            for number in range(scenario.processes)
        ]
        self._world.store.on_change = self._wake

    def run(self) -> SimulationResult:
        """Run until every delivery that can end has ended, for a few days at most."""
        scenario, journal = self.scenario, self.journal
        healthy = sum(not scenario.poison or each.event_type != POISON_TYPE for each in self._deliveries)
        self.agenda.run(
            lambda: len(journal.delivered_at) + len(journal.given_up_at) >= healthy,
            scenario.outage + scenario.over + 3 * _DAY,
        )
        return measure(journal, scenario)

    def _delivery(self, number: int) -> SimulatedDelivery:
        scenario, rng = self.scenario, self._rng
        start = rng.uniform(0, scenario.over) if scenario.over else 0.0
        if scenario.poison:
            is_poison = rng.random() < scenario.poison
            event_type = POISON_TYPE if is_poison else rng.randrange(1, max(2, scenario.types))
        else:
            event_type = rng.randrange(scenario.types)
        delivery = SimulatedDelivery(number, event_type, start, due_at=start)
        if start:
            self.agenda.at(start, partial(self._arrive, delivery))
        else:
            self._world.store.add(delivery)
        return delivery

    def _arrive(self, delivery: SimulatedDelivery) -> None:
        self._world.store.add(delivery)
        self._wake()

    def _wake(self) -> None:
        for each in self._processes:
            each.wake()


def simulate(
    scenario: Scenario, policy: RetryPolicy, *, has_gate: bool = True, seed: int = 1
) -> SimulationResult:
    """Run a scenario once; the same seed gives the same result."""
    return Simulation(scenario, policy, has_gate=has_gate, seed=seed).run()
