"""Single events of concurrent requests share transactions, and nothing else."""

import asyncio

import pytest

from resonant.errors import ConflictingEvent, StillLocked, StoreUnavailable
from resonant.events import Event
from resonant.intake.requests import group_commit
from resonant.intake.requests.group_commit import MOST_EVENTS, GroupCommit
from resonant.intake.requests.lock_turns import LockTurns
from resonant.store import enqueue
from resonant.store.queue.accept import Acceptance
from support.simulated_time import run_in_simulated_time


def make(event_id, data=1):
    return Event(type="com.example.paid", source="/shop", id=str(event_id), data=data)


@pytest.fixture
def groups(desk, monkeypatch):
    """The numbers of events in each transaction."""
    sizes = []
    accept = group_commit.accept

    def counted(connection, wanted, **options):
        sizes.append(len(wanted))
        return accept(connection, wanted, **options)

    monkeypatch.setattr(group_commit, "accept", counted)
    return sizes


def new_group(desk):
    return GroupCommit(desk.store, LockTurns(desk.store))


def store_all(desk, events, endpoint="orders"):
    async def run():
        group = new_group(desk)
        waiting = [group.accept(event, endpoint) for event in events]
        return await asyncio.gather(*waiting, return_exceptions=True)

    return desk.run(run())


def test_events_that_come_while_a_transaction_runs_share_the_next_ones(desk, groups):
    outcomes = store_all(desk, [make(number) for number in range(MOST_EVENTS * 2 + 1)])
    assert [outcome.event.id for outcome in outcomes] == [
        str(number) for number in range(MOST_EVENTS * 2 + 1)
    ]
    assert sum(groups) == MOST_EVENTS * 2 + 1
    assert max(groups) == MOST_EVENTS
    assert len(groups) <= 4
    assert desk.status().accepted == MOST_EVENTS * 2 + 1


def test_a_single_event_does_not_wait_for_others(desk, groups):
    async def run():
        group = new_group(desk)
        return [await group.accept(make(number), "orders") for number in range(3)]

    assert len(desk.run(run())) == 3
    assert groups == [1, 1, 1]


def test_a_conflict_does_not_affect_other_events(desk):
    desk.enqueue(make(1, data="old"))
    outcomes = store_all(desk, [make(0), make(1), make(2), make(2), make(2, data="other")])
    assert [bool(each.problem) for each in outcomes] == [False, True, False, False, True]
    assert [each.duplicate for each in outcomes] == [False, False, False, True, False]
    assert desk.status().accepted == 3


def test_an_unrouted_event_does_not_affect_other_events(desk):
    async def run():
        group = new_group(desk)
        return await asyncio.gather(group.accept(make(0), None), group.accept(make(1), "orders"))

    unrouted, stored = desk.run(run())
    assert unrouted.problem
    assert not stored.problem
    assert desk.status().accepted == 1


def test_without_the_store_every_event_fails(desk, monkeypatch):
    async def away(*_args, **_options):
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(desk.store.database, "write", away)
        outcomes = store_all(desk, [make(number) for number in range(3)])
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert not store_all(desk, [make(0)])[0].problem


def test_an_event_that_fails_the_transaction_does_not_affect_other_events(desk, monkeypatch, caplog):
    accept = group_commit.accept

    def fragile(connection, wanted, **options):
        outcomes = accept(connection, wanted, **options)
        if any(event.id == "3" for event, _ in wanted):
            raise ConflictingEvent("the webhook-id of the event '3' belongs to another event")
        return outcomes

    monkeypatch.setattr(group_commit, "accept", fragile)
    outcomes = store_all(desk, [make(number) for number in range(6)])
    assert [isinstance(each, ConflictingEvent) for each in outcomes] == [number == 3 for number in range(6)]
    assert desk.status().accepted == 5


def test_a_client_that_disconnects_does_not_affect_other_events(desk):
    async def run():
        group = new_group(desk)
        tasks = [asyncio.create_task(group.accept(make(number), "orders")) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = desk.run(run())
    assert all(isinstance(each, asyncio.CancelledError) for each in outcomes[::2])
    assert [each.event.id for each in outcomes[1::2]] == [str(number) for number in range(1, 20, 2)]
    again = store_all(desk, [make(99)])
    assert not again[0].problem


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_locked_event_waits_alone_while_others_are_stored_one_by_one_and_then_in_groups(desk, groups):
    async def run():
        group = new_group(desk)

        def accept_all(numbers):
            return [asyncio.create_task(group.accept(make(number), "orders")) for number in numbers]

        async with desk.store.transaction() as transaction:
            await transaction.run_sync(enqueue, make(0), "orders", now=desk.clock())
            waits, *beside = accept_all(range(5))
            stored = await asyncio.gather(*beside)
            assert groups[0] == 5
            assert set(groups[1:]) == {1}
            groups.clear()
            repeat, *later = accept_all(range(9))
            stored += await asyncio.gather(*later)
            assert max(groups) == 8, "an event that is known to wait is in no group"
            assert not waits.done()
            assert not repeat.done()
        return stored, [await waits, await repeat]

    stored, waited = desk.run(run())
    assert [outcome.duplicate for outcome in stored] == [False] * 4 + [True] * 4 + [False] * 4
    assert [outcome.duplicate for outcome in waited] == [True, True]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_a_client_that_disconnects_while_its_event_is_locked_leaves_nothing_behind(desk):
    async def run():
        turns = LockTurns(desk.store)
        group = GroupCommit(desk.store, turns)
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(enqueue, make(0), "orders", now=desk.clock())
            waits = [asyncio.create_task(group.accept(make(0), "orders")) for _ in range(3)]
            while "0" not in turns:
                await asyncio.sleep(0)
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            assert "0" not in turns
            return await group.accept(make(1), "orders")

    assert not desk.run(run()).problem


class LockedStore:
    """Has the timing of a store on PostgreSQL in which another transaction has locked the events below 1,000."""

    def __init__(self, seconds):
        self.tries = 0
        self._seconds = seconds

    def clock(self):
        return 0.0

    async def write_soon(self, lock_seconds, _operation, wanted, **_options):
        self.tries += 1
        await asyncio.sleep(self._seconds)
        if any(int(event.id) < 1_000 for event, _ in wanted):
            await asyncio.sleep(lock_seconds)
            raise StillLocked("locked")
        return [Acceptance(event) for event, _ in wanted]


def test_two_hundred_different_locked_events_a_second_delay_the_others_less_than_a_second():
    store = LockedStore(0.003)

    async def run():
        group, now = GroupCommit(store, LockTurns(store)), asyncio.get_running_loop().time
        waits = []

        async def accept(number):
            began_at = now()
            await group.accept(make(number), "orders")
            waits.append(now() - began_at)

        async with asyncio.TaskGroup() as beside:
            locked = []
            for number in range(800):
                locked.append(asyncio.create_task(accept(number)))
                if number % 4 == 0:
                    beside.create_task(accept(1_000 + number))
                await asyncio.sleep(0.005)
        for each in locked:
            each.cancel()
        return waits

    waits = run_in_simulated_time(run())
    assert len(waits) == 200
    assert max(waits) < 1.0


@pytest.mark.parametrize(("seconds", "most"), [(0.002, 240), (0.08, 12), (0.5, 8)])
def test_a_locked_batch_is_tried_again_after_a_pause_of_ten_times_its_work_but_a_second_at_most(
    seconds, most
):
    store = LockedStore(seconds)

    async def run():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await LockTurns(store).write_in_turn("key", None, [(make(1), "orders")])

    run_in_simulated_time(run())
    assert most / 2 < store.tries <= most
