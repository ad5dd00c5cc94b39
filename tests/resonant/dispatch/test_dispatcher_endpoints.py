"""How a run of the dispatcher opens its endpoints, and shares its sends between them."""

import asyncio
import itertools
from collections import Counter, defaultdict

import pytest

from resonant.dispatch.limits import Limits
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.base import CallableSink
from resonant.store.queue import enqueue as queue
from resonant.store.views.endpoint_problems import clear_problems, note_problems
from resonant.store.views.known_names import known_endpoints
from support.dispatching import (
    START,
    another_worker,
    at_work,
    deliveries,
    enqueue,
    hang,
    ran,
    rows,
    scene,
    sink_target,
    succeed,
)
from support.simulated_time import clock_from
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane")

# The bytes of an event's body where memory matters.
SIZE = 2_000


class BrokenSinks(dict):
    """Sinks of which ``broken`` raises an error when it is opened."""

    def __init__(self, error):
        super().__init__(orders=succeed)
        self._error = error

    def __contains__(self, name):
        if name == "broken":
            raise self._error
        return super().__contains__(name)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EndpointError("no endpoint is named 'broken'"), "no endpoint is named 'broken'"),
        # Only an EndpointError is known to contain no secret.
        (KeyError("s3cret"), "endpoint 'broken' cannot be opened: KeyError"),
    ],
)
async def test_an_endpoint_that_cannot_be_opened_delays_only_its_own_deliveries(tmp_path, error, reason):
    async with scene(tmp_path, sinks=BrokenSinks(error), due={"broken": 2, "orders": 2}) as worker:
        assert (await worker.run()).delivered == 2
        assert worker.dispatcher.problems == {"broken": reason}
        with pytest.raises(EndpointError, match=reason):
            await worker.run(endpoint="broken")
    left = Counter(deliveries(tmp_path, "endpoint, status"))
    assert left == {("broken", "pending"): 2, ("orders", "delivered"): 2}


async def test_a_run_for_one_endpoint_opens_it_and_sends_to_no_other(tmp_path):
    async with scene(tmp_path, orders=succeed, idle=succeed, due=1) as worker:
        await worker.run(endpoint="idle")
        assert await worker.store.read(known_endpoints) == {"idle", "orders"}
    assert deliveries(tmp_path, "status") == [("pending",)]


async def test_an_endpoint_that_is_created_later_is_opened_then(tmp_path, quick_look, monkeypatch):
    monkeypatch.setattr("resonant.dispatch.endpoints._FIRST_PAUSE_SECONDS", 0.1)

    sinks = {}
    async with at_work(tmp_path, sinks=sinks, limits=Limits(run_for=60), due={"late": 1}) as (worker, _):
        await until(lambda: problems(tmp_path))
        assert problems(tmp_path) == [("late", "no endpoint is named 'late'", START)]
        assert "late" in worker.dispatcher.problems
        sinks["late"] = succeed
        await until(lambda: worker.counts.delivered == 1)
        assert worker.dispatcher.problems == {}
        assert problems(tmp_path) == []


def problems(path):
    return rows(path, "SELECT endpoint, reason, since FROM resonant_endpoint_problems ORDER BY endpoint")


def closed(number):
    return [f"closed-{each}" for each in range(number)]


def store_one_for_each(connection, names):
    for name in names:
        queue.enqueue(connection, [Event(type="t", source="/s", data=1)], name, now=START)


async def test_endpoints_that_cannot_be_opened_are_tried_again_with_a_growing_pause_up_to_a_minute(tmp_path):
    now, opens = asyncio.get_running_loop().time, defaultdict(list)

    async def before_open(name):
        opens[name].append(now())

    options = {"before_open": before_open, "limits": Limits(successors=1)}
    async with scene(tmp_path, clock=clock_from(START), sinks={}, **options) as worker:
        await worker.store.write(store_one_for_each, closed(250))
        claims = worker.count_claims()
        noted = []
        note = worker.store.write

        async def write(operation, *args, **options):
            noted.extend([len(args[0])] if operation is note_problems else [])
            return await note(operation, *args, **options)

        worker.store.write = write
        async with worker.running(patience=600):
            await asyncio.sleep(190)
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(opens["closed-0"])]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(abs(len(each) - len(pauses) - 1) <= 1 for each in opens.values())
    # All are opened at once first; later, a look tries a few.
    assert max(Counter(itertools.chain(*opens.values())).values()) == 250
    assert max(Counter(at for each in opens.values() for at in each[1:]).values()) <= 100
    assert noted == [250], "one transaction, and none for a reason that is recorded already"
    assert not claims


async def test_a_healthy_endpoint_beside_thousands_that_cannot_be_opened_gets_its_events_at_once(tmp_path):
    options = {"clock": clock_from(START), "limits": Limits(successors=1)}
    async with scene(tmp_path, orders=succeed, known=succeed, **options) as worker:
        await worker.store.write(store_one_for_each, [*closed(2_000), "known"])
        async with worker.running():
            await until(lambda: worker.counts.delivered == 1)
            for number, name in enumerate(("known", "orders"), start=1):
                await asyncio.sleep(0.1)
                began, looks = asyncio.get_running_loop().time(), count_looks(worker)
                await enqueue(worker.store, 30, endpoint=name)
                await until(lambda number=number: worker.counts.delivered == 1 + 30 * number)
                assert len(looks) <= 2
                assert asyncio.get_running_loop().time() - began < 1


def count_looks(worker):
    looks, look = [], worker.store.look

    async def look_and_count(*args, **options):
        looks.append(1)
        return await look(*args, **options)

    worker.store.look = look_and_count
    return looks


async def test_an_endpoint_that_was_saved_is_tried_again_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("resonant.dispatch.endpoints._FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr("resonant.dispatch.endpoints._LONGEST_PAUSE_SECONDS", 3600.0)
    sinks = {}
    due = {"late": 1, "other": 1}
    async with scene(tmp_path, sinks=sinks, limits=Limits(successors=1), due=due) as worker:
        async with worker.running():
            await until(lambda: len(problems(tmp_path)) == 2)
            sinks["late"] = sinks["other"] = succeed
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.write(clear_problems, ["late"])
            await until(lambda: worker.counts.delivered)
        assert list(worker.dispatcher.problems) == ["other"]
    assert [name for name, *_ in problems(tmp_path)] == ["other"]


async def test_an_endpoint_that_opens_slowly_delays_no_other_and_is_waited_for(tmp_path):
    async def before_open(name):
        if name == "slow":
            await may_open.wait()

    may_open = asyncio.Event()
    options = {"before_open": before_open, "due": {"orders": 1, "slow": 1}}
    async with at_work(tmp_path, orders=succeed, slow=succeed, **options) as (worker, run):
        await until(lambda: worker.counts.delivered == 1)
        may_open.set()
        assert (await run).delivered == 2


async def test_opening_is_cancelled_with_the_run(tmp_path):
    async def before_open(_name):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    begun, ended = asyncio.Event(), asyncio.Event()
    async with at_work(tmp_path, before_open=before_open, orders=succeed, due=1):
        await begun.wait()
    assert ended.is_set()
    assert deliveries(tmp_path, "status") == [("pending",)]


@pytest.mark.parametrize("lane", [0, 500], ids=["task lane", "bulk lane"], indirect=True)
async def test_bodies_stay_within_the_memory_limit_however_many_endpoints_there_are(tmp_path, monkeypatch):
    def store_one_each(connection):
        for name in sinks:
            queue.enqueue(connection, [sized_event()], name, now=worker.store.clock())

    def note_bytes(*given, **options):
        flight = claim(*given, **options)
        most.append(held.counts.bytes)
        return flight

    async def refuse_slowly(_event):
        await asyncio.sleep(0.1)
        raise UnexpectedStatus(400)

    most = []
    monkeypatch.setattr("resonant.dispatch.flights.flights.MOST_BYTES", 64 * SIZE)
    sinks = {f"e-{number}": succeed if number % 20 else refuse_slowly for number in range(300)}
    async with scene(
        tmp_path, clock=clock_from(START), sinks=sinks, limits=Limits(concurrency=400)
    ) as worker:
        await worker.store.write(store_one_each)
        held = worker.dispatcher._flights
        claim = held.claim
        monkeypatch.setattr(held, "claim", note_bytes)
        counts = await worker.run()
        assert (counts.delivered, counts.dead_letters) == (285, {"permanent": 15})
        assert (
            held.counts.bytes
            == sum(each.flights.bytes for each in worker.dispatcher._endpoints.opened.values())
            == 0
        )
    assert 25 * SIZE < max(most) <= 64 * SIZE


def sized_event():
    return Event(type="t", source="/s", data="x" * (SIZE - 2))


@pytest.mark.parametrize(
    ("dead", "is_known"), [(1, True), (1, False), (100, True)], ids=["one", "one, new", "many"]
)
async def test_endpoints_that_never_answer_leave_memory_to_a_later_one(
    tmp_path, monkeypatch, quick_look, dead, is_known
):
    answers = Answers()
    monkeypatch.setattr("resonant.dispatch.flights.flights.MOST_BYTES", 64 * SIZE)
    sinks = {f"dead-{number}": answers.dead for number in range(dead)} | {"healthy": answers.healthy}
    async with scene(
        tmp_path, clock=clock_from(START), sinks=sinks, limits=Limits(concurrency=400)
    ) as worker:
        # On a busy machine, a single answer may take too long to be known as short.
        while is_known and not (
            answers.delivered and worker.dispatcher._endpoints.opened["healthy"].slots.is_short
        ):
            await worker.store.enqueue(sized_event(), "healthy")
            await worker.run()
        known, answers.number = answers.delivered, answers.delivered + 20
        for number in range(100):
            await worker.store.enqueue(sized_event(), f"dead-{number % dead}")
        async with worker.running() as run:
            await until(lambda: answers.hanging)
            looks = count_looks(worker)
            await until(lambda: len(looks) > 5)  # it claims as much as its memory allows
            await worker.store.enqueue([sized_event() for _ in range(20)], "healthy")
            counts = await run
    assert (counts.delivered, counts.dead_letters) == (known + 20, {"permanent": 100})
    assert (counts.retried, counts.parked) == (0, 0), "no send was cut off before the other endpoint was done"


class Answers:
    """One endpoint answers, and others not until so many of its events are delivered; then they answer 400."""

    def __init__(self, number=0):
        self.number = number
        self._all_delivered = asyncio.Event()
        self.delivered = self.hanging = 0

    async def healthy(self, _event):
        await asyncio.sleep(0.001)
        self.delivered += 1
        if self.delivered == self.number:
            self._all_delivered.set()

    async def dead(self, _event):
        self.hanging += 1
        await self._all_delivered.wait()
        raise UnexpectedStatus(400)


@pytest.mark.parametrize(
    ("early", "later"),
    [(("dead", "healthy"), ()), (("healthy", "dead"), ()), (("dead-1", "dead-2", "dead-3"), ("healthy",))],
    ids=["the first", "the last", "several, and a later one"],
)
async def test_endpoints_that_never_answer_do_not_delay_another(tmp_path, quick_look, early, later):
    answers = Answers(100)
    sinks = dict.fromkeys(early, answers.dead) | {"healthy": answers.healthy}
    options = {"limits": Limits(concurrency=40, endpoint_concurrency=40), "due": dict.fromkeys(early, 100)}
    async with at_work(tmp_path, clock=clock_from(START), sinks=sinks, **options) as (worker, run):
        await until(lambda: answers.hanging)
        for name in later:
            await enqueue(worker.store, 100, endpoint=name)
        counts = await run
    assert (counts.delivered, counts.dead_letters.keys()) == (100, {"permanent"})
    assert (counts.retried, counts.parked) == (0, 0), "no send was cut off before the other endpoint was done"


async def test_an_endpoint_without_an_answer_gets_one_send_while_another_waits_for_a_slow_commit(
    tmp_path, quick_look
):
    def never_answering(name):
        async def send(event):
            sent[name] += 1
            await hang(event)

        return send

    sent = Counter()
    sinks = {name: never_answering(name) for name in "ab"}
    async with scene(tmp_path, sinks=sinks, due={"a": 10}) as worker:
        commits = worker.dispatcher._attempts.recorder.commits
        write = commits._write

        async def write_late(requests):
            if sent:
                worker.clock.advance(1.0)
                await asyncio.sleep(0.3)  # so that the other deliveries to "a" ask the gate again
            return await write(requests)

        commits._write = write_late
        async with worker.running():
            await until(lambda: sent)
            await enqueue(worker.store, 10, endpoint="b")
            await until(lambda: len(sent) == 2)
    assert sent == {"a": 1, "b": 1}


async def test_several_endpoints_that_never_answer_do_not_delay_a_later_one(tmp_path, quick_look):
    answers = Answers(100)
    names = ("dead-1", "dead-2", "dead-3")
    sinks = dict.fromkeys(names, answers.dead) | {"healthy": answers.healthy}
    async with scene(tmp_path, clock=clock_from(START), limits=Limits(concurrency=40), **sinks) as worker:
        for name in names:
            await enqueue(worker.store, 100, endpoint=name)
        async with worker.running() as run:
            await until(lambda: answers.hanging == 3)
            await enqueue(worker.store, 100, endpoint="healthy")
            assert (await run).delivered == 100


async def test_an_endpoint_gets_no_more_concurrent_sends_than_its_own_limit(tmp_path):
    now, most = [], []

    async def send(_event):
        now.append(1)
        most.append(len(now))
        await asyncio.sleep(0.02)
        now.pop()

    destination = sink_target("orders", CallableSink(send), concurrency=3)
    await ran(tmp_path, orders=destination, due=60)
    assert max(most) == 3
