"""An idle run looks at once when another process has stored work, and when a retry falls due."""

import asyncio
import itertools
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.claim import fetcher
from resonant.dispatch.limits import Limits
from resonant.dispatch.run import background
from resonant.dispatch.run.running_tasks import RunningTasks
from resonant.errors import UnexpectedStatus
from resonant.events import Event
from resonant.gate.pausing import pause, resume
from resonant.store import WorkerStore, schema
from resonant.store.engine import wakeup
from resonant.store.shared import drains
from support.dispatching import appending_to, draining, opened, succeed
from support.waiting import quiet, until

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
async def drain(url, send, *, owner="run", endpoint=None, policy=POLICY, waits=0.0, **limits):
    """Run a dispatcher for the block, or until it ends; yields the task."""
    options = {"owner": owner, "endpoint": endpoint, "policy": policy, "waits": waits}
    async with opened(url) as store, draining(store, send, **options, limits=Limits(**limits)) as run:
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
    """Store an event after another until one is sent: the first ones may be stored before the run listens."""
    numbers = itertools.count()

    async def is_sent():
        await store.enqueue([event(f"evt_{next(numbers)}")], "orders")
        return any(each.startswith("evt_") for each in sent)

    await until(is_sent, every=0.1)


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


@pytest.mark.usefixtures("without_polls")
class TestAnIdleRun:
    @pytest.mark.parametrize("ahead", [0.0, 0.3])
    async def test_it_sends_the_events_of_another_process_at_once_though_its_clock_is_ahead(
        self, store_url, ahead
    ):
        sent = []
        async with running(store_url, appending_to(sent)) as store:
            await enqueue_until_sent(store, sent)
            await quiet(sent)
            store.clock = lambda: time.time() + ahead
            await store.enqueue([event("last")], "orders")
            await until(lambda: "last" in sent)

    async def test_it_claims_from_a_named_endpoint_without_a_poll(self, postgresql_url, steps):
        async with running(postgresql_url, appending_to(steps)) as store:
            await enqueue_until_sent(store, steps)
            await quiet(steps)
            steps.clear()
            await store.enqueue([event("last")], "orders")
            await until(lambda: "last" in steps)
            assert "poll" not in steps[: steps.index("last")]

    async def test_it_polls_if_a_gate_holds_the_named_endpoint(self, postgresql_url, steps):
        sent = []
        async with running(postgresql_url, appending_to(sent)) as store:
            await enqueue_until_sent(store, sent)
            await pause(store, "orders", who="me")
            await quiet(steps)
            steps.clear()
            await store.enqueue([event("held")], "orders")
            await until(lambda: steps)
            assert "held" not in sent
            await resume(store, "orders", who="me")
            await until(lambda: "held" in sent)

    async def test_for_one_endpoint_it_claims_from_no_other_that_a_notification_names(self, postgresql_url):
        sent = []
        async with running(postgresql_url, appending_to(sent), endpoint="orders") as store:
            await enqueue_until_sent(store, sent)
            await quiet(sent)
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
    @pytest.mark.parametrize("chunk_size", [0, 10], ids=["task lane", "bulk lane"])
    async def test_an_endpoint_that_does_not_answer_delays_no_new_event_for_another(
        self, store_url, chunk_size, monkeypatch
    ):
        monkeypatch.setattr(fetcher, "_EARLY_POLL_SECONDS", 3600)
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
            await quiet(sent)  # until a regular poll is over that was planned while nothing was in flight

            # An endpoint with deliveries in flight waits for the regular poll, which claims more at once.
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
                await asyncio.sleep(fetcher._EARLY_POLL_SECONDS)
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
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch):
        monkeypatch.setattr(drains, "BEAT_SECONDS", 0.05)

    async def test_they_hand_over_without_a_moment_in_which_none_sends(self, store_url, monkeypatch):
        monkeypatch.setattr(background, "WAIT_SECONDS", 0.1)
        sent = []

        async def is_sent(name):
            await store.enqueue([event(name)], "orders")
            await until(lambda: name in sent)

        @asynccontextmanager
        async def successor(owner):
            async with drain(store_url, appending_to(sent), successors=2, owner=owner) as run:
                await until(lambda: reports(store, owner))
                yield run

        async with opened(store_url) as store, successor("1") as first, successor("2") as second:
            await is_sent("before")
            await asyncio.sleep(0.5)
            assert not first.done(), "one younger drain is not enough"
            async with successor("3") as third:
                await is_sent("meanwhile")
                await asyncio.wait_for(first, 60)
                await is_sent("after")
                assert not second.done()
                assert not third.done()

    @pytest.mark.parametrize(
        "is_killed",
        [pytest.param(True, id="killed"), pytest.param(False, id="stopped", marks=pytest.mark.slow)],
    )
    async def test_one_goes_on_if_a_younger_one_dies_before_it_has_ended(
        self, store_url, monkeypatch, is_killed
    ):
        monkeypatch.setattr(drains, "LIVE_SECONDS", 0.5 if is_killed else 60.0)
        monkeypatch.setattr(background, "WAIT_SECONDS", 3.0)
        if is_killed:
            monkeypatch.setattr(drains, "leave", lambda *_: None)

        async with opened(store_url) as store, drain(store_url, succeed, successors=1, owner="1") as old:
            await until(lambda: reports(store, "1"))
            async with drain(store_url, succeed, successors=1, owner="2"):
                await until(lambda: reports(store, "2"))
                await asyncio.sleep(0.3)  # the old one sees it, and is about to end
            await asyncio.wait([old], timeout=5)
            assert not old.done()

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux names processes")
    @pytest.mark.parametrize(
        "limits", [{"successors": 1}, {"run_for": 60.0}, {}], ids=["drain", "timed", "one-shot"]
    )
    async def test_a_run_sends_what_a_killed_one_has_claimed_without_waiting_for_the_lease(
        self, store_url, limits
    ):
        async with opened(store_url) as store:
            await store.enqueue([event("claimed")], "orders")
        command = (sys.executable, "-c", _CLAIM, store_url)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert await process.stdout.readline() == b"1\n"
        sent = []
        async with drain(store_url, appending_to(sent), owner="alive", **limits):
            await asyncio.sleep(0.5)
            assert not sent, "the other one is alive"
            process.kill()
            async with asyncio.timeout(40):  # a lease lasts for 60 s
                await until(lambda: sent)
        await process.wait()

    async def test_one_whose_time_is_up_does_not_count_as_a_successor(self, store_url):
        answer = asyncio.Event()
        sending, ended = [], []

        async def send(given):
            sending.append(given.id)
            try:
                await answer.wait()
            finally:
                ended.append(given.id)

        limits = {"successors": 1, "run_for": 6.0}
        async with opened(store_url) as store, drain(store_url, send, owner="1", **limits) as run:
            await store.enqueue([event("last")], "orders")
            await until(lambda: sending)
            await until(lambda: reports(store, "1"))

            async def has_left():
                return not await reports(store, "1")

            await until(has_left)
            assert not ended
            answer.set()
            await asyncio.wait_for(run, 60)


def test_a_drain_notices_the_death_of_a_younger_one_long_before_its_own_end():
    assert drains.BEAT_SECONDS + drains.LIVE_SECONDS < background.WAIT_SECONDS / 2
