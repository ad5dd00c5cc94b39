import asyncio
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.dispatch.limiter import ConcurrencyLimiter


async def breathe():
    """Let every other task go on as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Holder:
    """A task that wants a slot, and keeps it until it is told to leave."""

    def __init__(self, limiter, endpoint, log=None, *, is_probe=False):
        self.endpoint = endpoint
        self.holds = False
        self.cancelled = False
        self._limiter = limiter
        self._log = log
        self._is_probe = is_probe
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._hold())

    async def _hold(self):
        slot = await self._limiter.acquire(self.endpoint, is_probe=self._is_probe)
        self.holds = True
        if self._log is not None:
            self._log.append(self)
        try:
            await self._leave.wait()
        finally:
            self.holds = False
            self._limiter.release(slot)

    async def leave(self):
        self._leave.set()
        await asyncio.wait([self._task])

    def cancel(self):
        self.cancelled = True
        self._task.cancel()


async def holders(limiter, endpoint, count, log=None, **options):
    made = [Holder(limiter, endpoint, log, **options) for _ in range(count)]
    await breathe()
    return made


def limiter_of_short_sends(total, per_endpoint, endpoints="abc"):
    """Make a limiter that knows that sends to these endpoints are short."""
    limiter = ConcurrencyLimiter(total, per_endpoint)
    for endpoint in endpoints:
        limiter.note_send(endpoint, 0.01)
    return limiter


def held(group):
    return sum(holder.holds for holder in group)


async def test_one_endpoint_gets_no_more_than_its_limit():
    assert held(await holders(limiter_of_short_sends(100, 5), "a", 20)) == 5


@pytest.mark.parametrize(("own", "allowed"), [(2, 2), (None, 5), (8, 8)])
async def test_an_endpoints_own_limit_takes_the_place_of_the_common_one(own, allowed):
    limiter = limiter_of_short_sends(100, 5)
    limiter.limit("a", own)

    assert held(await holders(limiter, "a", 20)) == allowed


@pytest.mark.parametrize(("total", "allowed"), [(1, 1), (2, 1), (3, 2), (10, 5), (100, 50)])
async def test_a_single_endpoint_leaves_half_of_the_slots_free(total, allowed):
    assert held(await holders(limiter_of_short_sends(total, 100), "a", 200)) == allowed


async def test_endpoints_that_keep_their_slots_for_ever_leave_some_for_the_next_ones():
    limiter = limiter_of_short_sends(100, 100)
    for dead in ("a", "b", "c"):
        await holders(limiter, dead, 200)

    assert held(await holders(limiter, "healthy", 200)) >= 1


async def test_two_endpoints_end_up_with_equal_shares_in_either_order():
    limiter = limiter_of_short_sends(30, 30, ["early", "late"])
    groups = {name: await holders(limiter, name, 100) for name in ("early", "late")}
    for _ in range(40):
        for group in groups.values():
            holding = next(holder for holder in group if holder.holds)
            await holding.leave()
            await breathe()

    assert {name: held(group) for name, group in groups.items()} == {"early": 10, "late": 10}


async def test_the_share_says_what_an_endpoint_can_count_on():
    limiter = limiter_of_short_sends(100, 40)
    assert limiter.share("a") == 40

    (other,) = await holders(limiter, "b", 1)
    assert limiter.share("a") == 33
    await other.leave()

    assert limiter.share("a") == 40


async def test_with_one_slot_endpoints_take_turns():
    limiter = limiter_of_short_sends(1, 1)
    log = []
    for name in ("a", "b", "c"):
        await holders(limiter, name, 3, log)
    for turn in range(9):
        await log[turn].leave()
        await breathe()

    names = [holder.endpoint for holder in log]
    assert [set(names[1:4]), set(names[4:7])] == [{"a", "b", "c"}] * 2


async def test_the_waiters_of_an_endpoint_are_served_in_order_of_arrival():
    log = []
    group = await holders(limiter_of_short_sends(4, 2), "a", 30, log)
    for turn in range(30):
        await log[turn].leave()
        await breathe()

    assert log == group


async def test_a_waiter_that_is_cancelled_takes_no_slot_with_it():
    limiter = limiter_of_short_sends(2, 1)
    first, second, third = await holders(limiter, "a", 3)
    second.cancel()
    await first.leave()
    await breathe()

    assert third.holds


async def test_a_waiter_cancelled_in_the_moment_of_its_turn_passes_the_slot_on():
    limiter = limiter_of_short_sends(2, 1)
    first, second, third = await holders(limiter, "a", 3)
    leaving = asyncio.create_task(first.leave())
    while first.holds:  # until the slot is given to the second, which has not run since
        await asyncio.sleep(0)
    assert not second.holds
    second.cancel()
    await leaving
    await breathe()

    assert not second.holds
    assert third.holds


async def test_a_holder_that_fails_gives_its_slot_back():
    limiter = limiter_of_short_sends(2, 1)
    slot = await limiter.acquire("a")
    limiter.release(slot)

    assert held(await holders(limiter, "a", 1)) == 1


steps = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "arrive", "leave", "cancel", "cancel in its turn"]),
        st.sampled_from("abc"),
        st.integers(0, 30),
        st.booleans(),
    ),
    max_size=60,
)


async def take(step, limiter, arrived, served):
    action, endpoint, number, others_run = step
    waiting = [holder for holder in arrived if holder not in served and not holder.cancelled]
    holding = [holder for holder in served if holder.holds]
    if action == "arrive":
        arrived.append(Holder(limiter, endpoint, served))
    elif action == "leave" and holding:
        await holding[number % len(holding)].leave()
    elif action == "cancel" and waiting:
        waiting[number % len(waiting)].cancel()
    elif action == "cancel in its turn" and holding and waiting:
        leaving = asyncio.create_task(holding[number % len(holding)].leave())
        for _ in range(number % 5):
            await asyncio.sleep(0)
        waiting[0].cancel()
        await leaving
    if others_run:
        await breathe()


@given(steps, st.integers(1, 8), st.integers(1, 8))
async def test_no_schedule_breaks_a_limit_or_the_order_or_loses_a_slot(schedule, total, per_endpoint):
    limiter = limiter_of_short_sends(total, per_endpoint)
    arrived, served = [], []
    for step in schedule:
        await take(step, limiter, arrived, served)
        used = Counter(holder.endpoint for holder in served if holder.holds)
        assert used.total() <= total
        assert max(used.values(), default=0) <= per_endpoint

    await breathe()
    while holding := [holder for holder in served if holder.holds]:
        await holding[0].leave()
        await breathe()
    for endpoint in "abc":
        stayed = [h for h in arrived if h.endpoint == endpoint and not h.cancelled]
        assert [h for h in served if h.endpoint == endpoint and not h.cancelled] == stayed
    assert held(await holders(limiter, "a", 20)) == min(per_endpoint, (total + 1) // 2)


@pytest.mark.parametrize(
    ("total", "own", "most"), [(100, 50, 50), (10, 50, 5), (9, 50, 5), (1, 50, 1), (100, 3, 3)]
)
async def test_the_limit_of_an_endpoint_is_what_it_can_have_alone(total, own, most):
    limiter = limiter_of_short_sends(total, own, ["orders"])
    assert limiter.limit_of("orders") == most
    assert held(await holders(limiter, "orders", 2 * total)) == most


class Time:
    """A clock for the ages of sends."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


async def test_endpoints_without_an_answer_leave_half_of_the_slots_to_short_sends():
    limiter = ConcurrencyLimiter(400, 50)
    first, *others = [await holders(limiter, f"bad-{number}", 5) for number in range(300)]
    limiter.note_send("healthy", 0.01)

    assert held(first) == 5, "it was alone"
    assert sum(map(held, others)) == 155
    assert {held(group) for group in others} == {0, 1}
    assert held(await holders(limiter, "healthy", 100)) == 50


async def test_endpoints_with_long_sends_leave_half_of_the_slots_and_some_for_new_endpoints():
    limiter = ConcurrencyLimiter(400, 50)
    for number in range(20):
        limiter.note_send(f"slow-{number}", 1.0)
    slow = [await holders(limiter, f"slow-{number}", 50) for number in range(20)]
    limiter.note_send("healthy", 0.01)

    assert 100 <= sum(map(held, slow)) <= 140
    assert held(await holders(limiter, "new", 5)) == 1
    assert held(await holders(limiter, "healthy", 100)) == 50


@pytest.mark.parametrize(("total", "busy"), [(400, 12), (2, 3)])
async def test_many_busy_endpoints_with_short_sends_leave_slots_to_new_and_slow_ones(total, busy):
    names = [f"busy-{number}" for number in range(busy)]
    limiter = limiter_of_short_sends(total, 50, names)
    limiter.note_send("slow", 1.0)
    groups = [await holders(limiter, name, 60) for name in names]
    late = [*await holders(limiter, "new", 1), *await holders(limiter, "slow", 1)]
    assert held(late) == 0, "all slots are in use"

    for _ in range(4):
        for holder in [each for each in [*late, *itertools.chain(*groups)] if each.holds][:busy]:
            await holder.leave()
            holder.was_served = True
    assert [getattr(each, "was_served", each.holds) for each in late] == [True, True]


async def test_an_endpoint_is_slow_once_most_of_its_sends_have_no_answer_for_long():
    time = Time()
    limiter = ConcurrencyLimiter(100, 50, clock=time)
    limiter.note_send("a", 0.01)
    assert held(await holders(limiter, "a", 60)) == 50

    time.now += 1.0
    await holders(limiter, "b", 1)
    assert not limiter.is_short("a")


async def test_one_late_answer_does_not_make_an_endpoint_slow():
    time = Time()
    limiter = ConcurrencyLimiter(100, 50, clock=time)
    limiter.note_send("a", 0.01)
    await holders(limiter, "a", 1)
    time.now += 1.0
    await holders(limiter, "a", 4)
    time.now += 0.2
    await holders(limiter, "b", 1)
    assert limiter.is_short("a")


async def test_an_endpoint_that_answers_quickly_again_is_short_again():
    limiter = ConcurrencyLimiter(100, 50)
    limiter.note_send("a", 15.0)
    for _ in range(40):
        limiter.note_send("a", 0.01)
    assert limiter.is_short("a")


async def test_probes_have_slots_of_their_own_and_no_more():
    limiter = ConcurrencyLimiter(100, 50)
    probes = await holders(limiter, "down", 10, is_probe=True)
    assert held(probes) == 10
    assert not limiter.may_probe
    for number in range(100):
        await holders(limiter, f"bad-{number}", 1)

    await probes[0].leave()
    assert limiter.may_probe
    assert held(await holders(limiter, "down", 1, is_probe=True)) == 1


async def test_with_few_slots_a_probe_uses_an_ordinary_one():
    limiter = ConcurrencyLimiter(2, 2)
    assert limiter.may_probe
    assert held(await holders(limiter, "down", 1, is_probe=True)) == 1


async def test_an_endpoint_that_mostly_fails_counts_as_slow_however_quickly_it_fails():
    limiter = ConcurrencyLimiter(100, 50)
    for _ in range(40):
        limiter.note_send("down", 0.01, has_failed=True)
        for _ in range(4):
            limiter.note_send("flaky", 0.01)
        limiter.note_send("flaky", 0.01, has_failed=True)
    assert not limiter.is_short("down")
    assert limiter.is_short("flaky")
