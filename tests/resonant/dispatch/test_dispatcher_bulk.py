"""A run of the dispatcher that sends in chunks: the lanes bulk and auto."""

import asyncio
import gc
import json
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from resonant.delivery.retry import GiveUp, Retry
from resonant.dispatch.counts import Counts
from resonant.dispatch.flights.chunk import MOST_SHOWN
from resonant.dispatch.limiting.ahead import PrefetchWindow
from resonant.dispatch.limits import WAIT_SECONDS, Limits
from resonant.dispatch.send import chunk as chunks
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.errors import StoreUnavailable, UnexpectedStatus
from resonant.events import Lease
from support.dispatching import (
    QUICK,
    Scene,
    at_work,
    deliveries,
    fail,
    failing_first,
    hang,
    ran,
    rows,
    scene,
    succeed,
)
from support.waiting import until


@pytest.fixture(autouse=True)
def chunks_of(monkeypatch):
    """Send in chunks of four; a test may call the fixture with another size."""
    set_size = partial(monkeypatch.setattr, Scene, "chunk_size")
    set_size(4)
    return set_size


def decisions(path):
    return dict(rows(path, "SELECT decision, count(*) FROM resonant_attempts GROUP BY 1"))


async def test_retries_wait_in_the_store_and_go_out_in_later_chunks(tmp_path):
    worker = await ran(tmp_path, orders=failing_first(3, one_in=3), due=9)
    counts = worker.counts
    assert worker.chunks[:3] == [4, 4, 1]
    assert sum(worker.chunks) == 9 + 2 * 3
    assert not worker.outcomes, "none goes alone"
    assert (counts.delivered, counts.retried, counts.parked) == (6, 3, 0)
    assert counts.dead_letters == {"exhausted": 3}
    assert deliveries(tmp_path, "attempts") == [(3,) if n % 3 == 0 else (1,) for n in range(9)]
    assert decisions(tmp_path) == {None: 6, "give_up": 3, "park": 6}


async def test_the_surplus_of_a_second_goes_in_chunks_and_retries_stay_in_their_lanes(tmp_path):
    worker = await ran(tmp_path, orders=failing_first(1), limits=Limits(alone=3), due=9)
    counts = worker.counts
    assert len(worker.outcomes) == 3 * 2, "three go alone, and retry in place"
    assert sum(worker.chunks) == (9 - 3) * 2
    assert (counts.delivered, counts.retried, counts.parked) == (9, 9, 0)
    assert decisions(tmp_path) == {None: 9, "park": 6, "retry": 3}


async def test_a_run_ends_if_its_parked_deliveries_are_due_later_than_it_waits(tmp_path):
    policy = replace(QUICK, base=WAIT_SECONDS + 1)
    counts = (await ran(tmp_path, orders=fail, policy=policy, due=3)).counts
    assert (counts.parked, counts.retried, counts.attempts) == (3, 0, 3)


@asynccontextmanager
async def paused_during_a_chunk(path, send, chunks_of):
    """Send a chunk of 20, one at a time, and pause its endpoint once it has begun; yields the worker and its run."""
    chunks_of(20)
    async with at_work(path, orders=send, limits=Limits(concurrency=1), due=20) as (worker, run):
        await until(lambda: deliveries(path, "sending").count((1,)) > 1)
        await worker.set_gate(state="paused")
        yield worker, run


async def test_deliveries_that_a_gate_holds_are_released_while_slow_answers_are_awaited(tmp_path, chunks_of):
    async def send(_event):
        await answers.wait()

    answers = asyncio.Event()
    async with paused_during_a_chunk(tmp_path, send, chunks_of) as (worker, run):
        await until(lambda: deliveries(tmp_path, "lease_owner").count((None,)) >= 16)
        assert not worker.done
        answers.set()
        await run
        assert worker.done == [Counts(delivered=1, held=19)]


async def test_errors_of_a_release_are_not_logged_by_asyncio_if_the_run_is_cancelled(
    tmp_path, monkeypatch, chunks_of
):
    def refuse(leases):
        refused.extend(leases)
        released = asyncio.get_running_loop().create_future()
        released.set_exception(StoreUnavailable("away"))
        return released

    refused, logged = [], []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: logged.append(context))
    monkeypatch.setattr(BatchWriter, "release", lambda _writer, leases: refuse(leases))
    async with paused_during_a_chunk(tmp_path, hang, chunks_of):
        await until(lambda: refused)
    gc.collect()
    assert not logged


async def test_a_retry_leaves_its_place_to_others_while_it_waits(tmp_path):
    limits = Limits(concurrency=2, endpoint_concurrency=1, max_waiting=0)
    counts = (await ran(tmp_path, orders=failing_first(2, one_in=10), limits=limits, due=40)).counts
    assert (counts.delivered, counts.retried, counts.parked) == (40, 4, 0)


async def test_a_chunk_counts_its_outcomes_and_reports_some_of_its_dead_letters(tmp_path, chunks_of):
    async def send(event):
        number = json.loads(event.body)
        if number < 25:
            raise UnexpectedStatus(400)
        if number < 29:
            raise UnexpectedStatus(503 if number < 28 else 502)

    chunks_of(60)
    worker = await ran(tmp_path, orders=send, due=60)
    assert str(worker.done[0]) == (
        "31 delivered, 0 retried, 4 parked (1 http_502, 3 http_503), 25 dead-lettered (25 permanent)"
    )
    assert [type(outcome.decision) for outcome in worker.shown[0]] == [GiveUp] * MOST_SHOWN


async def test_a_delivery_whose_lease_was_lost_during_its_send_goes_alone_with_its_retries(tmp_path):
    async def send(event):
        tries[event.id] += 1
        if event.id in lost and tries[event.id] == 1:
            raise UnexpectedStatus(503)

    tries = Counter()
    async with scene(tmp_path, orders=send, due=6) as worker:
        lost = worker.ids[:2]
        await worker.store.begin(await worker.store.claim("orders", owner="killed", limit=2))
        worker.clock.advance(61)
        assert (await worker.run()).delivered == 6
    assert worker.chunks == [4], "a delivery that may have crashed a worker is in no chunk"
    assert Counter(type(outcome.decision) for outcome in worker.outcomes) == {Retry: 2, type(None): 2}


async def test_several_endpoints_share_the_claims_for_chunks(tmp_path, monkeypatch, chunks_of):
    monkeypatch.setattr("resonant.dispatch.claim.plan.MOST_CLAIMED", 4 * 50)
    chunks_of(50)

    async def slowly(_event):
        await asyncio.sleep(0.01)

    names = [f"hooks-{n}" for n in range(9)]
    limits = Limits(concurrency=4)
    sinks, due = dict.fromkeys(names, slowly), dict.fromkeys(names, 60)
    async with scene(tmp_path, sinks=sinks, limits=limits, due=due) as worker:
        held = worker.count_claims()
        assert (await worker.run()).delivered == 9 * 60
    # Above the limit, endpoints get their fair size, independently of the other claims.
    fair = 4 * 50 // (8 + 2)
    assert max(held) <= 4 * 50 + 9 * fair


async def test_a_body_is_kept_only_until_its_send_and_not_until_the_end_of_its_chunk(tmp_path, chunks_of):
    async def send(event):
        sent.append(event.id)
        if len(sent) == 90:
            kept.append(sum(isinstance(each, Lease) for each in gc.get_objects()))

    chunks_of(100)
    sent, kept = [], []
    limits = Limits(concurrency=10, endpoint_concurrency=5)
    async with scene(tmp_path, orders=send, limits=limits, due=100) as worker:
        before = sum(isinstance(each, Lease) for each in gc.get_objects())
        await worker.run()
    assert worker.chunks == [100]
    assert kept[0] - before <= 10 + 2 * PrefetchWindow.MOST_BEGUN * 5


async def test_the_counts_of_a_chunk_include_lost_leases(tmp_path):
    stealing = []

    async def send(_event):
        if not stealing:
            stealing.append(asyncio.create_task(worker.lose_leases(tmp_path)))
        await stealing[0]

    async with scene(tmp_path, orders=send, due=3) as worker:
        await worker.run()
    assert worker.done[0] == Counts(lost=3)
    assert (worker.counts.delivered, worker.counts.lost) == (3, 3), "and then delivered one by one"


async def test_the_counts_of_a_chunk_are_complete_if_its_last_commit_ends_with_its_last_send(
    tmp_path, monkeypatch
):
    def record_late(self, outcome, **options):
        pending.append((record(self, outcome, **options), asyncio.get_running_loop().create_future()))
        return pending[-1][1]

    async def all_of_and_commits(works):
        await all_of(works)
        committed = await asyncio.gather(*(commit for commit, _ in pending))
        for held, (_, late) in zip(committed, pending, strict=True):
            late.set_result(held)

    pending, record, all_of = [], BatchWriter.record, chunks.all_of
    monkeypatch.setattr(BatchWriter, "record", record_late)
    monkeypatch.setattr(chunks, "all_of", all_of_and_commits)
    worker = await ran(tmp_path, orders=succeed, due=3)
    assert worker.done == [Counts(delivered=3)]


async def test_no_chunk_begins_once_a_run_is_cancelled(tmp_path):
    async def refuse(_event):
        sending.set()
        raise UnexpectedStatus(503)

    sending = asyncio.Event()
    async with at_work(tmp_path, orders=refuse, due=4) as (worker, _):
        await sending.wait()
    assert len(worker.chunks) == 1
