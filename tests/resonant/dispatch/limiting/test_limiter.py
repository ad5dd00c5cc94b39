import asyncio
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.dispatch.limiting.limiter import ConcurrencyLimiter


async def breathe():
    """Let every other task go on as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Limiter:
    """A limiter whose endpoints are known by name; sends to those in ``short`` are short. Time stands still by default."""

    def __init__(self, total, per_endpoint, *, short=(), clock=lambda: 0.0):
        self._limiter = ConcurrencyLimiter(total, per_endpoint, has_others=self._has_others, clock=clock)
        self._slots = {}
        self.release = self._limiter.release
        for name in short:
            self.note_send(name, 0.01)

    def _has_others(self, slots):
        return any(each is not slots and (each.used or each.waiting) for each in self._slots.values())

    def of(self, name):
        if name not in self._slots:
            self._slots[name] = self._limiter.slots()
        return self._slots[name]

    def limit(self, name, own):
        self._slots[name] = self._limiter.slots(own)

    def note_send(self, name, seconds, **options):
        self._limiter.note_send(self.of(name), seconds, **options)

    def share(self, name):
        return self._limiter.share(self.of(name))

    def is_short(self, name):
        return self.of(name).is_short

    @property
    def may_probe(self):
        return self._limiter.may_probe

    async def acquire(self, name, **options):
        return await self._limiter.acquire(self.of(name), **options)


class Holder:
    """A task that wants a slot, and keeps it until it leaves."""

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


def held(group):
    return sum(holder.holds for holder in group)


@pytest.mark.parametrize(
    ("total", "common", "own", "most"),
    [
        (100, 5, 2, 2),
        (100, 5, None, 5),
        (100, 5, 8, 8),
        # Half of the slots stay free for others.
        (100, 100, None, 50),
        (10, 50, None, 5),
        (9, 50, None, 5),
        (3, 100, None, 2),
        (2, 100, None, 1),
        (1, 50, None, 1),
    ],
)
async def test_an_endpoint_gets_its_own_limit_or_the_common_one_and_at_most_half_of_the_slots(
    total, common, own, most
):
    limiter = Limiter(total, common)
    limiter.limit("a", own)
    limiter.note_send("a", 0.01)
    assert limiter.of("a").limit == most
    assert held(await holders(limiter, "a", 200)) == most


async def test_endpoints_that_keep_their_slots_for_ever_leave_some_for_the_next_ones():
    limiter = Limiter(100, 100, short="abc")
    for dead in ("a", "b", "c"):
        await holders(limiter, dead, 200)

    assert held(await holders(limiter, "healthy", 200)) >= 1


async def test_two_endpoints_end_up_with_equal_shares_in_either_order():
    limiter = Limiter(30, 30, short=["early", "late"])
    groups = {name: await holders(limiter, name, 100) for name in ("early", "late")}
    for _ in range(40):
        for group in groups.values():
            holding = next(holder for holder in group if holder.holds)
            await holding.leave()
            await breathe()

    assert {name: held(group) for name, group in groups.items()} == {"early": 10, "late": 10}


async def test_the_share_is_the_number_of_slots_that_an_endpoint_can_expect():
    limiter = Limiter(100, 40, short="abc")
    assert limiter.share("a") == 40

    (other,) = await holders(limiter, "b", 1)
    assert limiter.share("a") == 33
    await other.leave()

    assert limiter.share("a") == 40


async def test_with_one_slot_endpoints_take_turns():
    limiter = Limiter(1, 1, short="abc")
    log = []
    for name in ("a", "b", "c"):
        await holders(limiter, name, 3, log)
    for turn in range(9):
        await log[turn].leave()
        await breathe()

    names = [holder.endpoint for holder in log]
    assert [set(names[1:4]), set(names[4:7])] == [{"a", "b", "c"}] * 2


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
    limiter = Limiter(total, per_endpoint, short="abc")
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


class Time:
    """A clock for the ages of sends."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


async def test_endpoints_without_an_answer_leave_half_of_the_slots_to_short_sends():
    limiter = Limiter(400, 50)
    first, *others = [await holders(limiter, f"bad-{number}", 5) for number in range(300)]
    limiter.note_send("healthy", 0.01)

    assert held(first) == 5, "it was alone"
    assert sum(map(held, others)) == 155
    assert {held(group) for group in others} == {0, 1}
    assert held(await holders(limiter, "healthy", 100)) == 50


async def test_endpoints_with_long_sends_leave_half_of_the_slots_and_some_for_new_endpoints():
    limiter = Limiter(400, 50)
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
    limiter = Limiter(total, 50, short=names)
    limiter.note_send("slow", 1.0)
    groups = [await holders(limiter, name, 60) for name in names]
    late = [*await holders(limiter, "new", 1), *await holders(limiter, "slow", 1)]
    assert held(late) == 0, "all slots are in use"

    for _ in range(4):
        for holder in [each for each in [*late, *itertools.chain(*groups)] if each.holds][:busy]:
            await holder.leave()
            holder.was_served = True
    assert [getattr(each, "was_served", each.holds) for each in late] == [True, True]


@pytest.mark.parametrize(("early", "late", "is_short"), [(50, 0, False), (1, 4, True)])
async def test_an_endpoint_is_slow_while_most_of_its_sends_have_had_no_answer_for_long(early, late, is_short):
    time = Time()
    limiter = Limiter(100, 50, short="a", clock=time)
    assert held(await holders(limiter, "a", early)) == early
    time.now += 1.0
    await holders(limiter, "a", late)
    time.now += 0.2
    await holders(limiter, "b", 1)
    assert limiter.is_short("a") == is_short


async def test_an_endpoint_that_begins_to_hang_keeps_few_slots():
    time = Time()
    limiter = Limiter(400, 50, clock=time)
    for _ in range(100):
        limiter.note_send("a", 0.01)
    hanging = []
    for _ in range(100):
        time.now += 0.05
        hanging += await holders(limiter, "a", 1)
    assert held(hanging) <= 15

    for holder in hanging[:100]:
        limiter.note_send("a", 0.01)
        await holder.leave()
    assert held(await holders(limiter, "a", 100)) == 50


OK, FAILED = (0.01, False), (0.01, True)


@pytest.mark.parametrize(
    ("sends", "is_short"),
    [([(15.0, False)] + [OK] * 40, True), ([FAILED] * 40, False), (([OK] * 4 + [FAILED]) * 40, True)],
    ids=["quick again", "quick failures", "some failures"],
)
async def test_sends_are_short_if_most_recent_ones_were_quick_and_worked(sends, is_short):
    limiter = Limiter(100, 50)
    for seconds, has_failed in sends:
        limiter.note_send("a", seconds, has_failed=has_failed)
    assert limiter.is_short("a") == is_short


async def test_probes_have_slots_of_their_own_and_no_more():
    limiter = Limiter(100, 50)
    probes = await holders(limiter, "down", 10, is_probe=True)
    assert held(probes) == 10
    assert not limiter.may_probe
    for number in range(100):
        await holders(limiter, f"bad-{number}", 1)

    await probes[0].leave()
    assert limiter.may_probe
    assert held(await holders(limiter, "down", 1, is_probe=True)) == 1


async def test_with_few_slots_a_probe_uses_an_ordinary_one():
    limiter = Limiter(2, 2)
    assert limiter.may_probe
    assert held(await holders(limiter, "down", 1, is_probe=True)) == 1
