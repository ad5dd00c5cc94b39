"""Run a scenario in simulated time."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

from resonant.lab.process import Process
from resonant.lab.receiver import POISON_TYPE, SimulatedReceiver
from resonant.lab.results import Journal, Result, measure
from resonant.lab.world import Agenda, SimulatedDelivery, SimulatedStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resonant.delivery.retry import RetryPolicy
    from resonant.lab.scenario import Scenario

_DAY = 86_400.0


class Simulation:
    """One run of a scenario.

    Args:
        scenario: the scenario to simulate.
        policy: the retry policy.
        has_gate: whether a gate limits the sends.
        seed: the same seed gives the same run.
        deaths: the time and the process of each crash; a new process replaces the crashed one.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: RetryPolicy,
        *,
        has_gate: bool = True,
        seed: int = 1,
        deaths: Sequence[tuple[float, int]] = (),
    ) -> None:
        self.scenario = scenario
        self.agenda, self.store, self.journal = Agenda(), SimulatedStore(), Journal()
        self._rng = random.Random(seed)
        receiver = SimulatedReceiver(scenario, random.Random(self._rng.random()))
        self._new_process = partial(
            Process,
            agenda=self.agenda,
            store=self.store,
            receiver=receiver,
            scenario=scenario,
            policy=policy,
            journal=self.journal,
            has_gate=has_gate,
        )
        self.deliveries = [self._delivery(number) for number in range(scenario.events)]
        self.processes = [self._process(number) for number in range(scenario.processes)]
        self.store.on_change = self._wake
        for when, number in deaths:
            self.agenda.at(when, partial(self._replace, number))

    def run(self) -> Result:
        """Run until every delivery that can end has ended, for a few days at most."""
        healthy = sum(not self._is_poison(each) for each in self.deliveries)
        journal = self.journal
        self.agenda.run(
            lambda: len(journal.delivered_at) + len(journal.given_up_at) >= healthy,
            self.scenario.outage + self.scenario.over + 3 * _DAY,
        )
        return measure(journal, self.scenario)

    def _is_poison(self, delivery: SimulatedDelivery) -> bool:
        return self.scenario.poison > 0 and delivery.event_type == POISON_TYPE

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
            self.store.add(delivery)
        return delivery

    def _arrive(self, delivery: SimulatedDelivery) -> None:
        self.store.add(delivery)
        self._wake()

    def _process(self, number: int) -> Process:
        return self._new_process(f"process-{number}", random.Random(self._rng.random()))

    def _replace(self, number: int) -> None:
        self.processes[number].die()
        self.processes[number] = self._process(len(self.processes) + number)

    def _wake(self) -> None:
        for each in self.processes:
            each.wake()


def simulate(scenario: Scenario, policy: RetryPolicy, *, has_gate: bool = True, seed: int = 1) -> Result:
    """Run a scenario once; the same seed gives the same result."""
    return Simulation(scenario, policy, has_gate=has_gate, seed=seed).run()
