"""A long outage, in simulated time, through a real store and the real dispatcher."""

import asyncio
from dataclasses import dataclass, field

import pytest

from resonant.dispatch.counts import Counts
from resonant.dispatch.limits import Limits
from resonant.errors import UnexpectedStatus
from support.dispatching import START, deliveries, dispatching, emit, enqueue, opened, rows
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

    async def run(self) -> Counts:
        loop = asyncio.get_running_loop()
        started_at = loop.time()

        def clock() -> float:
            return START + loop.time() - started_at

        async def answer(_event):
            self.sent_at.append(clock() - START)
            await asyncio.sleep(0.02)
            if clock() < START + self.seconds:
                raise UnexpectedStatus(503)

        url = f"sqlite:///{self.path / 'r.db'}"
        limits = Limits(run_for=self.seconds + 3 * MINUTE, chunk_size=self.chunk_size)
        async with opened(url, clock=clock) as store:
            for start in range(0, self.events, 1_000):
                await enqueue(store, min(1_000, self.events - start))
            async with dispatching(
                store,
                answer,
                limits=limits,
                on_gate_change=lambda _before, after: self.gates.append(after.state),
            ) as dispatcher:
                return await emit(dispatcher)

    def sends_during(self) -> int:
        return sum(at < self.seconds for at in self.sent_at)

    def check(self, counts: Counts) -> None:
        """Everything was delivered without an operator, and the probes were charged to nothing."""
        assert (counts.delivered, counts.dead_letters.total()) == (self.events, 0)
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
    counts = run_in_simulated_time(outage.run())
    outage.check(counts)
    assert outage.sends_during() < 150


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_an_outage_of_three_hours_costs_ten_thousand_events_under_200_sends(tmp_path):
    outage = Outage(tmp_path, 3 * HOUR, events=10_000, chunk_size=500)
    counts = run_in_simulated_time(outage.run())
    outage.check(counts)
    assert outage.sends_during() < 200
    # Probes come up to two minutes apart by then.
    recovered = min(at for at in outage.sent_at if at >= outage.seconds)
    assert recovered < outage.seconds + 2 * MINUTE
    assert max(outage.sent_at) < recovered + MINUTE
