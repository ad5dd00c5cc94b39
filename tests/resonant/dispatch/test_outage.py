"""A long outage, in simulated time, through a real store and the real dispatcher."""

import asyncio

import pytest

from resonant.dispatch.limits import Limits
from resonant.errors import UnexpectedStatus
from support.dispatching import START, deliveries, dispatching, emit, enqueue, opened, rows
from support.simulated_time import clock_from

EVENTS = 300
MINUTE, HOUR = 60.0, 3_600.0


@pytest.mark.parametrize(
    ("seconds", "chunk_size", "most"),
    [
        pytest.param(10 * MINUTE, 500, 150, id="ten minutes, bulk lane"),
        pytest.param(10 * MINUTE, 0, 150, id="ten minutes, task lane", marks=pytest.mark.slow),
        pytest.param(HOUR, 500, 110, id="an hour, bulk lane", marks=pytest.mark.slow),
    ],
)
async def test_an_outage_costs_few_sends_and_no_event(tmp_path, seconds, chunk_size, most):
    """A receiver answers 503 for this time, and a run starts with the outage and ends three minutes after it."""

    async def answer(_event):
        sent_at.append(clock() - START)
        await asyncio.sleep(0.02)
        if clock() < START + seconds:
            raise UnexpectedStatus(503)

    sent_at, gates, clock = [], [], clock_from(START)
    options = {
        "limits": Limits(run_for=seconds + 3 * MINUTE, chunk_size=chunk_size),
        "on_gate_change": lambda _before, after: gates.append(after.state),
    }
    async with opened(f"sqlite:///{tmp_path / 'r.db'}", clock=clock) as store:
        await enqueue(store, EVENTS)
        async with dispatching(store, answer, **options) as dispatcher:
            counts = await emit(dispatcher)

    # Everything is delivered without an operator, and the probes are charged to nothing.
    assert (counts.delivered, counts.dead_letters.total()) == (EVENTS, 0)
    assert set(deliveries(tmp_path, "status")) == {("delivered",)}
    assert gates == ["probing", "paced", "normal"]
    assert max(charged for (charged,) in deliveries(tmp_path, "round_attempts")) <= 4
    assert rows(tmp_path, "SELECT count(*) FROM resonant_attempts") == [(len(sent_at),)]

    assert sum(at < seconds for at in sent_at) < most
    recovered = min(at for at in sent_at if at >= seconds)
    assert recovered < seconds + 2 * MINUTE, "probes are up to two minutes apart"
    assert max(sent_at) < recovered + MINUTE
