"""Outages with real processes: the requests of each second, the attempts per event, and the time to deliver everything.

The standard scenario: events are due, and the endpoint refuses connections for 30 s. Then it accepts 50 requests a second and
answers 503 to the rest. The policy is the default one. ``--only PART`` selects scenarios by a part of their name.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from benches.comparing import Comparison, apart, is_chosen, say
from benches.outage_receiver import Behaviour, Notes, OutageReceiver, outage_receiver
from benches.processes import kept, python
from benches.surroundings import (
    ENDPOINT,
    empty_home,
    events,
    kept_prefect_server,
    postgresql,
    save_endpoint,
    wait_for_runs,
)
from resonant.dispatch.limits import Lane
from resonant.settings import Settings
from resonant.store import WorkerStore, schema
from resonant.store.shared.gates import read_gates

EVENTS, ROUNDS = 1_000, 1
_CAPACITY = 50
_LONGEST_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One outage.

    Attributes:
        name: a short description.
        lane: the lane of the drains.
        behaviour: the endpoint's behaviour once it listens.
        outage: seconds until it listens.
        drains: sending processes; more than one use PostgreSQL.
        seconds: the time limit for delivering everything.
        most_attempts, most_peak, most_drain: targets: attempts per event, requests in a whole second relative to the
            capacity, and seconds from recovery until every event is delivered.
    """

    name: str
    lane: Lane = "bulk"
    behaviour: Behaviour = field(default_factory=lambda: Behaviour(capacity=_CAPACITY))
    outage: float = 30.0
    drains: int = 1
    seconds: float = _LONGEST_SECONDS
    most_attempts: float | None = None
    most_peak: float | None = None
    most_drain: float | None = None


SCENARIOS = (
    Scenario("outage, bulk lane", most_attempts=1.5, most_peak=1.3, most_drain=40.0),
    Scenario("outage, task lane", lane="task", most_attempts=2.2, most_peak=1.3, most_drain=40.0),
    Scenario("outage, four drains", drains=4, most_attempts=1.8, most_peak=1.3, most_drain=40.0),
    Scenario(
        "slow, 10 a second",
        behaviour=Behaviour(capacity=10),
        outage=0.0,
        most_attempts=1.3,
        most_peak=2.0,
        most_drain=105.0,
    ),
    Scenario("429, retry after 30 s", behaviour=Behaviour("429"), outage=0.0, seconds=100.0),
    Scenario("410", behaviour=Behaviour("410"), outage=0.0, seconds=20.0),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a scenario.

    Attributes:
        notes: the receiver's records.
        attempts: number of attempts in the store.
        dead_letters: number of dead letters.
        unfinished: number of deliveries without an outcome at the time limit.
        gate: the state of the endpoint's gate at the end.
    """

    notes: Notes
    attempts: int
    dead_letters: int
    unfinished: int
    gate: str


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events.
        rounds: runs of each scenario.
        only: parts of scenarios' names; empty for all.
    """
    found: list[Comparison] = []
    for scenario in (each for each in SCENARIOS if is_chosen(each.name, only)):
        outcomes = []
        for turn in range(1, rounds + 1):
            outcome = apart(_measure, scenario, count)
            outcomes.append(outcome)
            say(f"  round {turn}: {scenario.name}: {_in_short(scenario, outcome, count)}")
        found += _compare(scenario, outcomes, count)
    return found


def _in_short(scenario: Scenario, outcome: Outcome, count: int) -> str:
    notes = outcome.notes
    seconds = " ".join(
        str(notes.requests.get(second, 0)) for second in range(max(notes.requests, default=0) + 1)
    )
    return (
        f"{outcome.attempts / count:.2f} attempts an event, peak {notes.peak}/s of {scenario.behaviour.capacity or 'any'}, "
        f"{notes.accepted} accepted, the last after {max(0.0, notes.last_at - notes.listening_at):.1f} s, "
        f"{outcome.dead_letters} dead letters, {outcome.unfinished} unfinished, gate {outcome.gate}; "
        f"requests by second: {seconds}"
    )


def _compare(scenario: Scenario, outcomes: Sequence[Outcome], count: int) -> list[Comparison]:
    capacity = scenario.behaviour.capacity
    ones = [1.0] * len(outcomes)
    attempts = [outcome.attempts / count for outcome in outcomes]
    found = [
        Comparison(
            f"{scenario.name}: attempts",
            "an event",
            attempts,
            ones,
            "at least",
            ours_at_most=scenario.most_attempts,
        )
    ]
    if capacity:
        peaks = [float(outcome.notes.peak) for outcome in outcomes]
        drains = [outcome.notes.last_at - outcome.notes.listening_at for outcome in outcomes]
        fastest = [count / capacity] * len(outcomes)
        found += [
            Comparison(
                f"{scenario.name}: busiest second",
                "requests",
                peaks,
                [float(capacity)] * len(outcomes),
                "of capacity",
                ratio_at_most=scenario.most_peak,
            ),
            Comparison(
                f"{scenario.name}: all delivered after",
                "s",
                drains,
                fastest,
                "at capacity",
                ours_at_most=scenario.most_drain,
            ),
        ]
    return found


def _measure(scenario: Scenario, count: int) -> Outcome:
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        url = settings.store_url
        if scenario.drains > 1:
            url = os.environ["RESONANT_DATABASE_URL"] = stack.enter_context(postgresql()).url
        receiver = stack.enter_context(outage_receiver(scenario.behaviour))
        stack.enter_context(kept_prefect_server(settings))
        runner = stack.enter_context(asyncio.Runner())
        runner.run(save_endpoint(receiver.url))
        store = runner.run(WorkerStore.open(url))
        stack.callback(lambda: runner.run(store.close()))
        stack.enter_context(_drains(settings, scenario))
        runner.run(wait_for_runs(os.environ["PREFECT_API_URL"], scenario.drains))
        return runner.run(_watch(store, receiver, scenario, count))


@contextlib.contextmanager
def _drains(settings: Settings, scenario: Scenario) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number in range(scenario.drains):
            log = settings.home.parent / f"drain-{number}.log"
            command = python("benches.contenders.workers.drain")
            stack.enter_context(kept(command, log=log, variables={"BENCH_LANE": scenario.lane}))
        yield


async def _watch(store: WorkerStore, receiver: OutageReceiver, scenario: Scenario, count: int) -> Outcome:
    receiver.listen_after(scenario.outage)
    await store.enqueue(events(count), ENDPOINT)
    give_up_at = time.monotonic() + scenario.outage + scenario.seconds
    while (unfinished := await store.unfinished()) and time.monotonic() < give_up_at:
        await asyncio.sleep(0.5)
    attempts, dead_letters = await store.read(_counts)
    gates = await store.read(read_gates)
    state = gates[ENDPOINT].state if ENDPOINT in gates else "normal"
    return Outcome(receiver.notes(), attempts, dead_letters, unfinished, state)


def _counts(connection: Connection) -> tuple[int, int]:
    deliveries = schema.deliveries
    attempts = select(func.coalesce(func.sum(deliveries.c.attempts), 0))
    dead = select(func.count()).select_from(deliveries).where(deliveries.c.status == "dead_letter")
    return connection.execute(attempts).scalar_one(), connection.execute(dead).scalar_one()
