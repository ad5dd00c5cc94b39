"""The rate of an endpoint: several processes share it, in simulated time over the real SQL."""

import asyncio
import bisect
import itertools
import random

import pytest
from sqlalchemy import create_engine

from resonant.dispatch.limiting.rate import USED_SHARE, NoRate, Rate
from resonant.errors import StoreUnavailable
from resonant.store import schema
from resonant.store.shared.send_slots import reserve

RATE = 50.0
USED = USED_SHARE * RATE
# The clock of the store shows the time since the epoch, and that of the event loop the time since the start.
_AHEAD = 500.0


class Machines:
    """Processes that share a store. It answers within ``latency`` seconds, and their clocks are apart."""

    def __init__(self, connection):
        self.sent: list[float] = []
        self.reservations = 0
        self.latency = 0.01
        self._rng = random.Random(7)
        self._connection = connection

    @property
    def now(self):
        return asyncio.get_running_loop().time()

    async def reserve(self, endpoint, **options):
        self.reservations += 1
        await asyncio.sleep(self._rng.uniform(0, self.latency))
        given = reserve(self._connection, endpoint, clock=lambda: self.now + _AHEAD, **options)
        await asyncio.sleep(self._rng.uniform(0, self.latency))
        return given

    def process(self, *, rate=RATE, width=50, skew=0.0, is_over=lambda: False):
        clock = lambda: self.now + _AHEAD + skew  # noqa: E731
        return Rate("orders", rate, width, self.reserve, clock=clock, is_over=is_over)

    async def send(self, rate, *, begin_takes=0.0, answer_takes=0.0):
        """Wait as a send does, and note when it goes out."""
        slot = await rate.take()
        try:
            await asyncio.sleep(self._rng.uniform(0, begin_takes))
            if await rate.wait(slot):
                self.sent.append(self.now)
                await asyncio.sleep(answer_takes)
                return True
            return False
        finally:
            rate.free(slot)

    def start(self, rate, number, **options):
        """Start this many sends of one process."""
        return [asyncio.create_task(self.send(rate, **options)) for _ in range(number)]

    def most_within(self, seconds=1.0):
        """The most sends within any time as long as this."""
        times = sorted(self.sent)
        return max(bisect.bisect_left(times, start + seconds) - i for i, start in enumerate(times))


@pytest.fixture
def machines():
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        schema.metadata.create_all(connection, tables=[schema.send_slots])
        yield Machines(connection)
    engine.dispose()


async def test_one_process_sends_at_the_rate(machines):
    await asyncio.gather(*machines.start(machines.process(), 500))
    took = machines.sent[-1] - machines.sent[0]
    assert took == pytest.approx(499 / USED, rel=0.01)
    assert machines.most_within() <= RATE
    # Half a second's worth each time, but for the first ones.
    assert machines.reservations < 50


@pytest.mark.parametrize("skew", [0.0, 3.0])
async def test_four_processes_share_the_rate_though_the_store_is_slow_and_their_clocks_differ(machines, skew):
    machines.latency = 0.1
    processes = [machines.process(skew=number * skew) for number in range(4)]
    sends = [machines.start(each, 200, begin_takes=0.1) for each in processes]
    await asyncio.gather(*itertools.chain(*sends))
    assert len(machines.sent) == 800
    assert machines.most_within() <= RATE + 1
    assert machines.sent[-1] - machines.sent[0] == pytest.approx(800 / USED, rel=0.1)


async def test_new_events_soon_get_a_slot_while_a_replay_takes_all_that_are_left(machines):
    async def send():
        accepted_at = machines.now
        await machines.send(drain)
        waits.append(machines.now - accepted_at)

    drain, waits = machines.process(), []
    replay = machines.start(machines.process(), 1_000)
    async with asyncio.TaskGroup() as new:
        for _ in range(100):
            new.create_task(send())
            await asyncio.sleep(0.1)
    assert max(waits) < 1.2
    assert len(machines.sent) > 9 * USED
    await asyncio.gather(*replay)


async def test_the_slots_of_a_killed_process_pass_unused_and_the_others_go_on(machines):
    sends = [machines.start(machines.process(), 300) for _ in range(4)]
    await asyncio.sleep(2.0)
    for each in sends[0]:
        each.cancel()
    killed_at = machines.now
    await asyncio.gather(*itertools.chain(*sends[1:]))
    assert machines.most_within() <= RATE + 1
    after = sum(1 for each in machines.sent if killed_at < each <= killed_at + 5)
    assert after >= 4 * USED, "it had a second's worth at most"


async def test_a_send_that_missed_its_slot_takes_the_next_one_before_all_others(machines):
    process = machines.process()
    slot = await process.take()
    others = machines.start(process, 100)
    await asyncio.sleep(slot - machines.now + 0.05)  # the process stood still
    late = machines.now
    assert await process.wait(slot)
    assert machines.now - late < 0.5, "a hundred others wait two seconds"
    await asyncio.gather(*others)
    assert machines.most_within() <= RATE


async def test_a_rate_above_the_speed_of_the_endpoint_slows_nothing_down(machines):
    process = machines.process(rate=500, width=10)
    began = machines.now
    await asyncio.gather(*machines.start(process, 500, begin_takes=0.01, answer_takes=0.1))
    # Ten at a time, each for 0.105 s and the wait for its slot.
    assert 500 / (machines.now - began) > 70


async def test_a_rate_below_one_sends_that_rarely(machines):
    processes = [machines.process(rate=0.1) for _ in range(2)]
    await asyncio.gather(*machines.start(processes[0], 3), *machines.start(processes[1], 3))
    gaps = [later - earlier for earlier, later in itertools.pairwise(machines.sent)]
    assert gaps == pytest.approx([10 / USED_SHARE] * 5, abs=0.1)


async def test_runs_that_end_before_their_turn_do_not_delay_those_that_follow(machines):
    assert await machines.send(machines.process(rate=0.1))
    for _ in range(20):
        over = machines.now + 0.2
        is_over = lambda over=over: machines.now > over  # noqa: E731
        assert not await machines.send(machines.process(rate=0.1, is_over=is_over))
    await machines.send(machines.process(rate=0.1))
    assert machines.sent[1] - machines.sent[0] == pytest.approx(10 / USED_SHARE, abs=0.1)


async def test_waiting_sends_get_no_slot_when_the_run_ends(machines):
    over_at = machines.now + 1.0
    sends = machines.start(machines.process(is_over=lambda: machines.now > over_at), 200)
    done = await asyncio.gather(*sends)
    assert machines.now < over_at + 0.5
    assert done.count(True) == pytest.approx(RATE, abs=15)


async def test_an_unavailable_store_is_an_error_of_each_waiting_send(machines):
    async def gone(endpoint, **options):
        raise StoreUnavailable("gone")

    machines.reserve = gone
    for each in await asyncio.gather(*machines.start(machines.process(), 3), return_exceptions=True):
        assert isinstance(each, StoreUnavailable)


async def test_a_cancelled_send_leaves_its_slot_to_the_next(machines):
    sends = machines.start(machines.process(), 10)
    await asyncio.sleep(0)
    for each in sends[:9]:
        each.cancel()
    await sends[9]
    assert len(machines.sent) == 1


async def test_an_endpoint_without_a_rate_waits_for_nothing():
    rate = NoRate()
    assert await rate.take() is None
    assert await rate.wait(None)
    assert (rate.is_limited, rate.most_claimed) == (False, float("inf"))


@pytest.mark.parametrize(("rate", "most"), [(0.01, 1), (1.0, 2), (50.0, 98)])
async def test_a_run_claims_the_sends_of_two_seconds_and_at_least_one(machines, rate, most):
    assert machines.process(rate=rate).most_claimed == most
