"""The laboratory runs the gate and the policy themselves, so that these are goals of theirs."""

from dataclasses import replace
from functools import cache
from statistics import mean

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.lab.scenario import Scenario
from resonant.lab.simulation import Simulation, simulate

DEFAULT = RetryPolicy()
SEEDS = range(3)


@cache
def runs(scenario, policy=DEFAULT, **options):
    return [simulate(scenario, policy, seed=seed, **options) for seed in SEEDS]


def test_the_same_seed_gives_the_same_run():
    assert simulate(Scenario(), DEFAULT, seed=3) == simulate(Scenario(), DEFAULT, seed=3)
    assert simulate(Scenario(), DEFAULT, seed=3) != simulate(Scenario(), DEFAULT, seed=4)


def goals(name, *, means=None, worst=None, **scenario):
    return pytest.param(Scenario(**scenario), means or {}, worst or {}, id=name)


OF_A_RATE = {"sends": 300, "busiest": 21, "drain": 299 / 20 + 0.5}


@pytest.mark.parametrize(
    ("scenario", "means", "worst"),
    [
        goals(
            "an outage",
            means={"peak": 1.2, "drain": 1.45 * 20},
            worst={"peak": 1.35, "attempts": 1.2, "given_up": 0, "unfinished": 0},
        ),
        goals("4 processes", means={"peak": 1.2}, worst={"attempts": 1.2}, processes=4),
        goals("16 processes", means={"peak": 1.2}, worst={"attempts": 1.2}, processes=16),
        # Recovery is noticed within a ninth of the outage.
        goals("5 s", worst={"noticed": 1.5}, outage=5.0, processes=2),
        goals("60 s", worst={"noticed": 0.11 * 60}, outage=60.0, processes=2),
        goals("1800 s", worst={"noticed": 0.11 * 1800}, outage=1800.0, processes=2),
        goals("a queue", worst={"peak": 1.4, "attempts": 1.2}, overload="queue", processes=4),
        goals("a burst to 50 per second", worst={"peak": 2}, outage=0, capacity=50),
        goals("a burst to 200 per second", worst={"peak": 2}, outage=0, capacity=200),
        goals("a burst by 16 processes", worst={"peak": 2}, outage=0, processes=16),
        goals("a short outage", worst={"peak": 2.5}, outage=1),
        goals("poison", means={"drain": 70, "peak": 1.2}, poison=0.5),
        goals("half failing", means={"attempts": 2.4, "peak": 1.7}, failures=0.5),
        goals("an hour", worst={"noticed": 15}, outage=3600),
        goals(
            "a low limit",
            means={"drain": 1000 / 9.5},
            worst={"attempts": 1.3, "busiest": 20},
            outage=0,
            capacity=10,
        ),
        goals("three a second", worst={"attempts": 1.3, "busiest": 10}, events=200, outage=0, capacity=3),
        goals("five a second", worst={"attempts": 1.2, "busiest": 10}, events=300, outage=0, capacity=5),
        goals("a rate", worst=OF_A_RATE, events=300, outage=0.0, capacity=0.0, rate=20.0, processes=3),
        goals(
            "a long outage", worst={"sends": 2_199, "given_up": 0}, events=2_000, outage=3 * 3600, capacity=0
        ),
        goals("half of the events fail", worst={"drain": 60}, events=500, outage=0, capacity=0, poison=0.5),
    ],
)
def test_the_figures_of_an_endpoint_reach_their_goals(scenario, means, worst):
    found = runs(scenario)
    for figure, goal in means.items():
        assert mean(getattr(run, figure) for run in found) <= goal, figure
    for figure, goal in worst.items():
        assert max(getattr(run, figure) for run in found) <= goal, figure


@pytest.mark.parametrize("jitter", ["none", "proportional", "full", "equal", "decorrelated"])
def test_with_the_gate_the_figures_are_better_than_with_jitter_alone(jitter):
    plain = runs(Scenario(), replace(DEFAULT, jitter=jitter), has_gate=False)
    gated = runs(Scenario())
    # Full jitter spreads retries so thinly that it never reaches the capacity.
    for figure in ("attempts", "drain", "busiest", *(() if jitter == "full" else ("peak",))):
        with_gate, without = (mean(getattr(run, figure) for run in found) for found in (gated, plain))
        assert with_gate < without, figure


def test_the_earlier_rate_is_reached_seconds_after_a_retry_after_to_all_requests():
    scenario = Scenario(
        events=9_000, over=60, outage=45, flap=15, outage_kind="429", capacity=0, retry_after=5
    )
    for run in runs(scenario):
        assert run.drain <= 16
        assert sum(run.requests[46:50]) >= 4 * 150


def test_after_an_outage_random_failures_of_half_of_the_requests_cost_twice_the_time_at_most():
    for seed in SEEDS:
        simulation = Simulation(Scenario(failures=0.5), DEFAULT, seed=seed)
        simulation.run()
        # The last ones may wait for the end of their own long backoff.
        assert sorted(simulation.journal.delivered_at)[-10] <= 30 + 100


@pytest.mark.parametrize("failures", [0.3, pytest.param(0.5, marks=pytest.mark.slow)])
def test_random_failures_do_not_slow_an_endpoint_down(failures):
    scenario = Scenario(events=2_000, over=40, outage=0, capacity=0, failures=failures)

    def half_done(*, has_gate, seed):
        simulation = Simulation(scenario, DEFAULT, has_gate=has_gate, seed=seed)
        simulation.agenda.run(lambda: len(simulation.journal.delivered_at) >= 1_000, 1e6)
        return simulation.agenda.now

    gated = mean(half_done(has_gate=True, seed=seed) for seed in SEEDS)
    assert gated <= 1.01 * mean(half_done(has_gate=False, seed=seed) for seed in SEEDS)
