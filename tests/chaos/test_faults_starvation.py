"""Many endpoints that fail, hang or are slow do not starve a healthy one in the same run.

No test measures a speed: each compares the sends to the healthy endpoint with those to the others at the same time. With
SQLite, that time is simulated.
"""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from faults import make_events

from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.errors import UnexpectedStatus
from resonant.sinks.base import CallableSink
from support.dispatching import dispatching, emit, opened, sink_target
from support.simulated_time import clock_from, run_in_simulated_time
from support.waiting import until

_HEALTHY, _BAD = 400, 10
_SLOW_SECONDS = 1.0
_START = 1_800_000_000.0
_CHUNK_SIZES = {"task": 0, "bulk": 100}


def cases(*given):
    """Run each case: its database, its lane, and the number of bad endpoints, with more or fewer than a run has slots."""
    marks = {"sqlite": (), "postgresql": pytest.mark.slow}
    return pytest.mark.parametrize(
        ("database", "lane", "many"),
        [pytest.param(*each, id=", ".join(map(str, each)), marks=marks[each[0]]) for each in given],
    )


@dataclass
class Neighbours:
    """A run that sends to a healthy endpoint and to many bad ones.

    Attributes:
        sent: the sends to the bad endpoints, by endpoint.
        answered: the sends to the bad endpoints that have ended, by endpoint.
        delivered: the number of sends to the healthy endpoint.
    """

    dispatcher: Dispatcher
    delivered: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)

    async def when_all_delivered(self) -> None:
        await until(lambda: self.delivered == _HEALTHY)


@asynccontextmanager
async def neighbours(url, lane, many, misbehave):
    """Start a run with this many bad endpoints, whose sends await ``misbehave``."""

    async def open_destination(name):
        async def send(_event):
            if name == "healthy":
                await asyncio.sleep(0.002)
                found.delivered += 1
                return
            found.sent[name] += 1
            await misbehave()
            found.answered[name] += 1

        return sink_target(name, CallableSink(send), timeout=3600)

    limits = Limits(run_for=3600, chunk_size=_CHUNK_SIZES[lane])
    async with opened(url, clock=clock_from(_START)) as store:
        # The name of the healthy endpoint comes after the others, so it is found last.
        for number in range(many):
            await store.enqueue(make_events(_BAD), f"bad-{number:03}")
        await store.enqueue(make_events(_HEALTHY), "healthy")
        async with dispatching(store, None, open_destination=open_destination, limits=limits) as dispatcher:
            found = Neighbours(dispatcher)
            emitting = asyncio.create_task(emit(dispatcher))
            try:
                yield found
            finally:
                emitting.cancel()
                await asyncio.wait([emitting])


@pytest.fixture
def url(request, database):
    return request.getfixturevalue(f"{database}_url")


@pytest.fixture
def run(database):
    """Run a coroutine, in simulated time if the database allows it."""
    return run_in_simulated_time if database == "sqlite" else asyncio.run


@cases(
    ("sqlite", "task", 120),
    ("sqlite", "bulk", 120),
    ("sqlite", "task", 20),
    ("sqlite", "bulk", 20),
    ("postgresql", "task", 120),
    ("postgresql", "bulk", 120),
)
def test_a_healthy_endpoint_is_served_while_many_others_never_answer(run, url, lane, many):
    async def serve():
        async with neighbours(url, lane, many, asyncio.Event().wait) as found:
            await found.when_all_delivered()
            assert not found.answered
            assert set(found.sent.values()) <= {1}, "no answer, no second send"

    run(serve())


@cases(("sqlite", "task", 120), ("sqlite", "bulk", 120), ("sqlite", "task", 10), ("sqlite", "bulk", 10))
def test_a_healthy_endpoint_is_served_while_many_others_are_slow(run, url, lane, many):
    async def answer_late():
        await asyncio.sleep(_SLOW_SECONDS)

    async def serve():
        async with neighbours(url, lane, many, answer_late) as found:
            await found.when_all_delivered()
            assert found.answered.total() < many * _BAD, "they take most of their time still"
            await until(lambda: len(found.answered) == many)

    run(serve())


@cases(("sqlite", "task", 120), ("sqlite", "bulk", 120), ("postgresql", "bulk", 120))
def test_a_healthy_endpoint_is_claimed_from_in_large_steps_while_many_others_fail(run, url, lane, many):
    async def fail():
        raise UnexpectedStatus(503)

    async def serve():
        claimed = []
        async with neighbours(url, lane, many, fail) as found:
            claim_each = found.dispatcher.store.claim_each

            async def claim_and_note(limits, **options):
                leases = await claim_each(limits, **options)
                claimed.append(len(leases.get("healthy", ())))
                return leases

            found.dispatcher.store.claim_each = claim_and_note
            await found.when_all_delivered()
            assert len(list(filter(None, claimed))) <= 20
            assert max(found.sent.values()) <= 20, "the gates hold the others"

    run(serve())
