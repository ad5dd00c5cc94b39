"""An idle run looks at once when another process has stored work, and when a retry falls due."""

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.claim import poll_times
from resonant.dispatch.limits import WAIT_SECONDS, Limits
from resonant.dispatch.run.running_tasks import RunningTasks
from resonant.errors import UnexpectedStatus
from resonant.events import Event
from resonant.gate.pausing import pause, resume
from resonant.store import WorkerStore, schema
from resonant.store.engine import wakeup
from resonant.store.shared import drains
from support.dispatching import START, appending_to, draining, opened, succeed
from support.simulated_time import clock_from
from support.waiting import until

POLICY = RetryPolicy(max_attempts=3, base=0.2, factor=1.0, jitter="none")

# A run that claims a delivery, and then does nothing.
_CLAIM = """
import asyncio, sys
from resonant.dispatch.run.background import Report
from resonant.store import WorkerStore

async def main():
    store = await WorkerStore.open(sys.argv[1])
    await Report(store, "killed").send()
    print(len(await store.claim("orders", owner="killed", limit=1)), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())"""


@pytest.fixture
def without_polls(without_polls, monkeypatch):
    # A commit whose sync takes longer is found by the poll.
    monkeypatch.setattr(wakeup, "_SYNC_SECONDS", 60.0)


def event(name: str) -> Event:
    return Event(type="order.paid", source="/shop", data=name, id=name)


@asynccontextmanager
async def drain(url, send, *, clock=None, owner="run", endpoint=None, policy=POLICY, waits=0.0, **limits):
    """Run a dispatcher for the block, or until it ends; yields the task."""
    options = {"owner": owner, "endpoint": endpoint, "policy": policy, "waits": waits}
    clocks = {} if clock is None else {"clock": clock}
    async with (
        opened(url, **clocks) as store,
        draining(store, send, **options, limits=Limits(**limits)) as run,
    ):
        yield run


@asynccontextmanager
async def running(url, send, *given, **options):
    """Store events, given as (id, endpoint), and run for the block; yields the store as another process sees it."""
    async with opened(url) as store:
        for name, endpoint in given:
            await store.enqueue([event(name)], endpoint)
        async with drain(url, send, **{"run_for": 60} | options):
            yield store


async def enqueue_until_sent(store, sent):
    """Store an event after another until one is sent, since the first may be stored before the run listens; wait for all."""
    stored = []

    async def is_sent():
        stored.append(f"evt_{len(stored)}")
        await store.enqueue([event(stored[-1])], "orders")
        return any(each in sent for each in stored)

    await until(is_sent, every=0.1)
    await until(lambda: set(stored).issubset(sent))


async def reports(store, owner):
    """Return whether a drain has reported that it is alive."""
    statement = select(func.count()).select_from(schema.drains).where(schema.drains.c.owner == owner)
    return await store.read(lambda connection: connection.scalar(statement))


@pytest.fixture
def steps(monkeypatch):
    """A list that gets the text "poll" for each poll of a run; a test may add other steps."""
    taken = []
    look = WorkerStore.look

    async def record_look(store, *arguments, **options):
        taken.append("poll")
        return await look(store, *arguments, **options)

    monkeypatch.setattr(WorkerStore, "look", record_look)
    return taken


@pytest.fixture
def is_asleep(monkeypatch):
    """Return whether the run has waited for a while for something that happens, so that no earlier commit wakes it."""
    pauses, wait_for_change = [], RunningTasks.wait_for_change

    async def wait(running_tasks, seconds):
        pauses.append((seconds, asyncio.get_running_loop().time()))
        await wait_for_change(running_tasks, seconds)
        pauses.pop()

    def has_slept():
        seconds, began_at = pauses[-1] if pauses else (0.0, 0.0)
        return seconds > 10 and asyncio.get_running_loop().time() > began_at + 0.2

    monkeypatch.setattr(RunningTasks, "wait_for_change", wait)
    return has_slept


@pytest.mark.usefixtures("without_polls")
class TestAnIdleRun:
    async def test_it_sends_the_events_of_another_process_at_once_though_its_clock_is_ahead(
        self, store_url, is_asleep
    ):
        sent = []
        async with running(store_url, appending_to(sent)) as store:
            await enqueue_until_sent(store, sent)
            await until(is_asleep)
            store.clock = lambda: time.time() + 0.3
            await store.enqueue([event("last")], "orders")
            await until(lambda: "last" in sent)

    async def test_it_claims_from_a_named_endpoint_without_a_poll(self, postgresql_url, steps, is_asleep):
        async with running(postgresql_url, appending_to(steps)) as store:
            await enqueue_until_sent(store, steps)
            await until(is_asleep)
            steps.clear()
            await store.enqueue([event("last")], "orders")
            await until(lambda: "last" in steps)
            assert "poll" not in steps[: steps.index("last")]

    async def test_it_polls_if_a_gate_holds_the_named_endpoint(self, postgresql_url, steps, is_asleep):
        sent = []
        async with running(postgresql_url, appending_to(sent)) as store:
            await enqueue_until_sent(store, sent)
            await pause(store, "orders", who="me")
            await until(is_asleep)
            steps.clear()
            await store.enqueue([event("held")], "orders")
            await until(lambda: steps)
            assert "held" not in sent
            await resume(store, "orders", who="me")
            await until(lambda: "held" in sent)

    async def test_for_one_endpoint_it_claims_from_no_other_that_a_notification_names(
        self, postgresql_url, is_asleep
    ):
        sent = []
        async with running(postgresql_url, appending_to(sent), endpoint="orders") as store:
            await enqueue_until_sent(store, sent)
            await until(is_asleep)
            await store.enqueue([event("other")], "billing")
            await store.enqueue([event("last")], "orders")
            await until(lambda: "last" in sent)
            assert "other" not in sent

    async def test_it_is_woken_while_a_retry_waits_in_it(self, store_url):
        sent = []

        async def send(given):
            sent.append(given.id)
            if given.id == "fails":
                raise UnexpectedStatus(503)

        async with running(store_url, send, ("fails", "failing"), waits=3600) as store:
            await until(lambda: sent)
            await enqueue_until_sent(store, sent)


@pytest.mark.usefixtures("without_polls")
class TestABusyRun:
    @pytest.mark.parametrize(
        ("store_url", "chunk_size"),
        [("postgresql", 0), ("sqlite", 10)],
        ids=["task lane", "bulk lane"],
        indirect=["store_url"],
    )
    async def test_an_endpoint_that_does_not_answer_delays_no_new_event_for_another(
        self, store_url, chunk_size, monkeypatch, is_asleep
    ):
        monkeypatch.setattr(poll_times, "_EARLY_POLL_SECONDS", 3600)
        sent, is_answered = [], asyncio.Event()

        async def send(given):
            sent.append(given.id)
            if given.id == "hangs":
                await is_answered.wait()

        async with running(store_url, send, chunk_size=chunk_size) as store:
            await enqueue_until_sent(store, sent)
            for number in range(30):  # until the gate sends freely
                await store.enqueue([event(f"answered_{number}")], "hanging")
                await until(lambda last=f"answered_{number}": last in sent)
            await store.enqueue([event("hangs")], "hanging")
            await until(lambda: "hangs" in sent)
            await store.enqueue([event("new")], "another")
            await until(lambda: "new" in sent)
            await until(is_asleep)  # the poll that was planned while nothing was in flight is over

            # An endpoint with deliveries in flight waits for the regular poll, which claims more at once. The producer's clock is
            # behind, so the events are due at once. Otherwise the run may plan a poll for their due time, which claims "later".
            store.clock = lambda: time.time() - 0.1
            await store.enqueue([event("later")], "hanging")
            await store.enqueue([event("newer")], "another")
            await until(lambda: "newer" in sent)
            assert "later" not in sent
            is_answered.set()
            await until(lambda: "later" in sent)

    async def test_for_one_endpoint_it_waits_when_it_is_woken(self, store_url, monkeypatch):
        """It has nothing to claim early, and must not look for work without a pause."""
        pauses, sent = [], []
        wait_for_change = RunningTasks.wait_for_change
        monkeypatch.setattr(poll_times, "_EARLY_POLL_SECONDS", 0.01)

        async def wait(running_tasks, seconds):
            pauses.append(seconds)
            await wait_for_change(running_tasks, seconds)

        async def send(given):
            sent.append(given.id)
            await asyncio.Event().wait()

        monkeypatch.setattr(RunningTasks, "wait_for_change", wait)
        async with running(store_url, send, ("hangs", "orders"), endpoint="orders") as store:
            await until(lambda: sent)
            for number in range(5):
                woken = len(pauses)
                await store.enqueue([event(f"evt_{number}")], "orders")
                await until(lambda woken=woken: len(pauses) > woken)
                await asyncio.sleep(poll_times._EARLY_POLL_SECONDS)
            assert 0 not in pauses[-10:]

    @pytest.mark.parametrize(
        ("given", "options"),
        [
            ([("fails", "failing")], {"chunk_size": 10}),
            ([("slow", "slow"), ("fails", "failing")], {"policy": replace(POLICY, park_after=0.0)}),
        ],
        ids=["idle", "while another delivery is being sent"],
    )
    async def test_a_parked_retry_goes_out_at_its_time(self, store_url, given, options):
        sent, done = [], asyncio.Event()

        async def send(event):
            sent.append(event.id)
            if event.id == "slow":
                await done.wait()
            if sent.count("fails") == 1:
                raise UnexpectedStatus(503)

        async with running(store_url, send, *given, **options):
            await until(lambda: sent.count("fails") == 2)
            done.set()


class TestDrains:
    """They hand over to younger ones, in simulated time."""

    @staticmethod
    @asynccontextmanager
    async def started(url, owner, clock, send=succeed, **limits):
        """Run a drain for the block; it has reported that it is alive when the block begins."""
        async with drain(url, send, clock=clock, owner=owner, **{"successors": 1} | limits) as run:
            await asyncio.sleep(1)
            yield run

    async def test_they_hand_over_without_a_moment_in_which_none_sends(self, sqlite_url):
        async def is_sent(name):
            await store.enqueue([event(name)], "orders")
            await until(lambda: name in sent)

        def successor(owner):
            return self.started(sqlite_url, owner, clock, appending_to(sent), successors=2)

        sent, clock = [], clock_from(START)
        async with (
            opened(sqlite_url, clock=clock) as store,
            successor("1") as first,
            successor("2") as second,
        ):
            await is_sent("before")
            await asyncio.sleep(2 * WAIT_SECONDS)
            assert not first.done(), "one younger drain is not enough"
            async with successor("3") as third:
                await is_sent("meanwhile")
                await asyncio.wait_for(first, 2 * WAIT_SECONDS)
                await is_sent("after")
                assert not second.done()
                assert not third.done()

    @pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
    async def test_one_goes_on_if_a_younger_one_dies_before_it_has_ended(
        self, sqlite_url, monkeypatch, is_killed
    ):
        if is_killed:
            monkeypatch.setattr(drains, "leave", lambda *_: None)
        clock = clock_from(START)
        async with self.started(sqlite_url, "1", clock) as old:
            async with self.started(sqlite_url, "2", clock):
                await asyncio.sleep(2 * drains.BEAT_SECONDS)  # the old one sees it, and is about to end
            await asyncio.sleep(2 * WAIT_SECONDS)
            assert not old.done()

    async def test_one_whose_time_is_up_does_not_count_as_a_successor(self, sqlite_url):
        clock, sent, answer = clock_from(START), [], asyncio.Event()
        send = appending_to(sent, answer)
        async with (
            opened(sqlite_url, clock=clock) as store,
            self.started(sqlite_url, "1", clock, send, run_for=6.0) as run,
        ):
            await store.enqueue([event("last")], "orders")
            await until(lambda: sent)
            assert await reports(store, "1")
            await asyncio.sleep(10)
            assert not await reports(store, "1")
            assert not run.done(), "it waits for an answer"
            answer.set()
            await asyncio.wait_for(run, 60)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names processes")
@pytest.mark.parametrize(
    ("store_url", "limits"),
    [("postgresql", {"successors": 1}), ("sqlite", {"run_for": 60.0}), ("sqlite", {})],
    ids=["drain", "timed", "one-shot"],
    indirect=["store_url"],
)
async def test_a_run_sends_the_deliveries_of_a_killed_one_before_their_leases_end(
    store_url, limits, monkeypatch
):
    sent, looks, rescue_ended = [], [], WorkerStore.rescue_ended

    async def look(store, *given):
        looks.append(given)
        return await rescue_ended(store, *given)

    monkeypatch.setattr(WorkerStore, "rescue_ended", look)
    async with opened(store_url) as store:
        await store.enqueue([event("claimed")], "orders")
    command = (sys.executable, "-c", _CLAIM, store_url)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert await process.stdout.readline() == b"1\n"
    async with drain(store_url, appending_to(sent), owner="alive", **limits):
        await until(lambda: len(looks) > 1)
        assert not sent, "the other one is alive"
        process.kill()
        async with asyncio.timeout(40):  # a lease lasts for 60 s
            await until(lambda: sent)
    await process.wait()
