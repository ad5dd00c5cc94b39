"""The simulation itself: it repeats a world, finds planted bugs, and shortens what it has found."""

import asyncio
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from simulation.broken import Broken
from simulation.loop import Process, WorldLoop
from simulation.plan import Plan
from simulation.postgresql import WorldOnPostgreSQL
from simulation.running import apply, copy_code, describe, hunt, planted, run, shorten
from simulation.world import World

# Closed coroutines of killed processes.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# Seeds that once broke an invariant, of the code or of the simulation.
_FAILED_BEFORE = (19, 261, 383656136, 625605504)
_SMALL = {"seconds": 40.0, "events": 60, "endpoints": 2, "processes": 2}


def test_a_seed_gives_the_same_trace_in_another_process():
    repeated = subprocess.run(
        [sys.executable, "-m", "simulation", "--seed", "7"],
        env=os.environ | {"PYTHONHASHSEED": "17"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert repeated.stdout.splitlines()[:-1] == run(Plan.draw(7)).trace


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(1, 7), *_FAILED_BEFORE])
def test_no_invariant_breaks(seed):
    assert run(Plan.draw(seed)).broken is None


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 5])
def test_no_invariant_breaks_on_postgresql_in_the_same_world_twice(postgresql, seed):
    plan = Plan.draw(seed, **_SMALL | {"seconds": 20.0, "events": 30})
    first, second = (run(plan, partial(WorldOnPostgreSQL, postgresql)) for _ in range(2))
    assert first.broken is None
    assert first.trace == second.trace


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_a_planted_bug_is_small(bug):
    changes = [line for line in bug.text.splitlines() if line[:1] in "+-" and line[:3] not in {"+++", "---"}]
    assert 1 <= len(changes) <= 10


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A folder with a copy of the code."""
    return copy_code(tmp_path_factory.mktemp("code"))


@pytest.mark.parametrize("bug", planted(), ids=lambda bug: bug.name)
def test_a_planted_bug_applies(bug, code):
    assert apply(bug, code, "--check") == ""


def test_a_planted_bug_is_found():
    [bug] = [each for each in planted() if each.name == "acceptances-fold-the-last-only"]
    assert hunt(bug, cpu=30).is_found


def test_a_failing_plan_is_shortened_to_the_fault_that_fails_it(monkeypatch):
    def kill(world, process):
        world.observer.broken = Broken("fence", f"{process.name} was killed")

    monkeypatch.setattr(World, "kill", kill)
    seeds = (Plan.draw(seed, **_SMALL | {"seconds": 20.0, "events": 20}) for seed in range(20))
    plan = next(each for each in seeds if sum(fault.kind == "kill" for fault in each.faults) > 1)
    found = shorten(run(plan), cpu=20.0)
    assert [fault.kind for fault in found.plan.faults] == ["kill"]
    assert found.plan.events < plan.events
    assert "was killed" in describe(found)


class TestProcesses:
    def test_nothing_of_a_killed_process_runs_any_more(self):
        ran = []

        async def work():
            try:
                await asyncio.sleep(1.0)
                ran.append("after")
            finally:
                ran.append("finally")

        self.run(lambda one, _other: (one.start(work()), one.loop.call_later(0.5, one.kill)))
        assert ran == []

    def test_a_frozen_process_goes_on_later(self):
        times = []

        async def work(loop):
            await asyncio.sleep(1.0)
            times.append(round(loop.time() - 1_000))

        def begin(one, other):
            one.start(work(one.loop))
            one.is_frozen = True
            other.call(setattr, one, "is_frozen", False, after=5.0)

        self.run(begin)
        assert times == [6]

    def test_callbacks_of_a_process_stay_in_order(self):
        order = []

        def begin(one, other):
            for number in range(50):
                one.call(order.append, ("one", number))
                other.call(order.append, ("other", number))

        self.run(begin)
        of_one = [number for name, number in order if name == "one"]
        assert of_one == list(range(50))
        assert [name for name, _ in order] != ["one", "other"] * 50

    @staticmethod
    def run(begin):
        loop = WorldLoop(random.Random(1))
        begin(Process("one", loop), other := Process("other", loop))
        loop.run_until_complete(other.start(asyncio.sleep(10.0)))
        loop.graveyard.append(loop.processes)
