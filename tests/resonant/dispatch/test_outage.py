"""A long outage, in simulated time, through a real store and the real dispatcher."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from resonant.delivery.attempt import AttemptRunner
from resonant.delivery.retry import Retry
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.dispatch.summary import Summary
from resonant.errors import UnexpectedStatus
from resonant.sinks.base import CallableSink
from resonant.store import WorkerStore
from support.dispatching import START, deliveries, enqueue, rows, sink_target
from support.simulated_time import run_in_simulated_time

HOUR = 3_600.0
MINUTE = 60.0


@dataclass
class Outage:
    """A receiver that answers 503 for a while, and a run that starts with it and ends three minutes after it."""

    path: object
    seconds: float
    events: int
    chunk_size: int = 0
    sent_at: list[float] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)

    async def run(self) -> Summary:
        loop = asyncio.get_running_loop()
        started_at = loop.time()

        def clock() -> float:
            return START + loop.time() - started_at

        async def answer(_event):
            self.sent_at.append(clock() - START)
            await asyncio.sleep(0.02)
            if clock() < START + self.seconds:
                raise UnexpectedStatus(503)

        async def open_destination(name):
            return sink_target(name, CallableSink(answer))

        store = await WorkerStore.open(f"sqlite:///{self.path / 'r.db'}", clock=clock, host_clock=clock)
        try:
            for start in range(0, self.events, 1_000):
                await enqueue(store, min(1_000, self.events - start))
            async with Dispatcher(
                store,
                AttemptRunner(clock=clock, rng=random.Random(7)),
                open_destination,
                owner="worker",
                limits=Limits(run_for=self.seconds + 3 * MINUTE, chunk_size=self.chunk_size),
                on_gate_change=lambda _before, after: self.gates.append(after.state),
            ) as dispatcher:

                async def emit_one(lease):
                    while isinstance(decision := (await dispatcher.attempt(lease.key)).decision, Retry):
                        await asyncio.sleep(decision.delay)

                async def emit_chunk(leases):
                    await dispatcher.attempt_all(leases[0].endpoint, [lease.key for lease in leases])

                return await dispatcher.run(emit_one, emit_chunk=emit_chunk)
        finally:
            await store.close()

    def sends_during(self) -> int:
        return sum(at < self.seconds for at in self.sent_at)

    def check(self, summary: Summary) -> None:
        """Everything was delivered without an operator, and the probes were charged to nothing."""
        assert (summary.delivered, summary.dead_letters.total()) == (self.events, 0)
        assert {status for (status,) in deliveries(self.path, "status")} == {"delivered"}
        assert self.gates == ["probing", "paced", "normal"]
        assert max(charged for (charged,) in deliveries(self.path, "round_attempts")) <= 4
        assert len(self.sent_at) == rows(self.path, "SELECT count(*) FROM resonant_attempts")[0][0]


@pytest.mark.parametrize(
    "chunk_size",
    [pytest.param(0, id="task lane", marks=pytest.mark.slow), pytest.param(500, id="bulk lane")],
)
def test_an_outage_of_ten_minutes_costs_few_sends_and_no_event(tmp_path, chunk_size):
    outage = Outage(tmp_path, 10 * MINUTE, events=300, chunk_size=chunk_size)
    summary = run_in_simulated_time(outage.run())
    outage.check(summary)
    assert outage.sends_during() < 150


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_an_outage_of_three_hours_costs_ten_thousand_events_under_200_sends(tmp_path):
    outage = Outage(tmp_path, 3 * HOUR, events=10_000, chunk_size=500)
    summary = run_in_simulated_time(outage.run())
    outage.check(summary)
    assert outage.sends_during() < 200
    # Probes come up to two minutes apart by then.
    recovered = min(at for at in outage.sent_at if at >= outage.seconds)
    assert recovered < outage.seconds + 2 * MINUTE
    assert max(outage.sent_at) < recovered + MINUTE
