"""What a run of the dispatcher does in the bulk lane."""

import asyncio
import gc
import json
import time
from dataclasses import replace

import pytest

from resonant.delivery.retry import GiveUp, Park
from resonant.dispatch.limits import Limits
from resonant.dispatch.sender import WAIT_SECONDS
from resonant.dispatch.summary import MOST_SHOWN, ChunkSummary
from resonant.errors import StoreUnavailable, UnexpectedStatus
from resonant.store.shared.gates import GateChange, change_gate, read_gate
from resonant.testing import FixedClock
from support.dispatching import (
    QUICK,
    START,
    Scene,
    another_worker,
    deliveries,
    enqueue,
    fail,
    failing_first,
    rows,
    scene,
)
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane")


def attempting_all(worker):
    """What emits a chunk on the real clock."""

    async def emit_chunk(leases):
        await worker.dispatcher.attempt_all(leases[0].endpoint, [lease.key for lease in leases])

    return emit_chunk


class TestTheBulkLane:
    """What is said of it alone."""

    @pytest.fixture(autouse=True)
    def lane(self, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 4)

    async def test_retries_wait_in_the_store_and_go_out_in_later_chunks(self, tmp_path):
        async def refuse_every_third(event):
            if json.loads(event.body) % 3 == 0:
                raise UnexpectedStatus(503)

        async with scene(tmp_path, orders=refuse_every_third) as worker:
            await enqueue(worker.store, 9)
            summary = await worker.run()
        assert worker.chunks[:3] == [4, 4, 1]
        assert sum(worker.chunks) == 9 + 2 * 3
        assert not worker.reports, "none goes alone"
        assert (summary.delivered, summary.retried, summary.parked) == (6, 3, 0)
        assert summary.dead_letters == {"exhausted": 3}
        assert deliveries(tmp_path, "attempts") == [(3,) if n % 3 == 0 else (1,) for n in range(9)]
        decisions = rows(tmp_path, "SELECT decision, count(*) FROM resonant_attempts GROUP BY 1 ORDER BY 1")
        assert decisions == [(None, 6), ("give_up", 3), ("park", 6)]

    async def test_a_run_ends_while_what_it_parked_is_due_later_than_it_waits(self, tmp_path):
        policy = replace(QUICK, base=WAIT_SECONDS + 1)
        async with scene(tmp_path, orders=fail, policy=policy) as worker:
            await enqueue(worker.store, 3)
            summary = await worker.run()
        assert (summary.parked, summary.retried, summary.attempts) == (3, 0, 3)

    async def test_what_a_closed_gate_holds_goes_back_while_slow_answers_are_awaited(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(Scene, "chunk_size", 20)

        async def send(_event):
            await answers.wait()

        answers = asyncio.Event()
        async with scene(tmp_path, orders=send, limits=Limits(concurrency=1)) as worker:
            await enqueue(worker.store, 20)
            running = asyncio.create_task(worker.run())
            await until(lambda: deliveries(tmp_path, "sending").count((1,)) > 1)
            before = await worker.store.read(read_gate, "orders")
            await worker.store.write(change_gate, GateChange(before, replace(before, state="paused")))
            await until(lambda: deliveries(tmp_path, "lease_owner").count((None,)) >= 16)
            assert not worker.done
            answers.set()
            await running
            assert worker.done == [ChunkSummary(delivered=1, held=19)]

    async def test_errors_of_handing_back_are_not_logged_by_asyncio_if_the_run_is_cancelled(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(Scene, "chunk_size", 20)

        async def send(_event):
            await asyncio.Event().wait()

        async def refuse(lease):
            refused.append(lease)
            raise StoreUnavailable("away")

        refused, logged = [], []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: logged.append(context))
        async with scene(tmp_path, orders=send, limits=Limits(concurrency=1)) as worker:
            await enqueue(worker.store, 20)
            monkeypatch.setattr(worker.dispatcher._sender._commits, "release", refuse)
            running = asyncio.create_task(worker.run())
            await until(lambda: deliveries(tmp_path, "sending").count((1,)) > 1)
            before = await worker.store.read(read_gate, "orders")
            await worker.store.write(change_gate, GateChange(before, replace(before, state="paused")))
            await until(lambda: refused)
            running.cancel()
            await asyncio.wait([running])
        del running
        gc.collect()
        assert not logged

    async def test_a_run_looks_at_the_very_moment_when_the_next_retry_is_due(self, tmp_path, monkeypatch):
        monkeypatch.setattr("resonant.dispatch.fetcher.POLL_SECONDS", 3600)

        policy = replace(QUICK, base=0.2)
        async with scene(tmp_path, orders=failing_first(), policy=policy, clock=time.time) as worker:
            await enqueue(worker.store)
            running = worker.dispatcher.run(worker.emit_one, emit_chunk=attempting_all(worker))
            assert (await asyncio.wait_for(running, 60)).delivered == 1

    async def test_a_retry_leaves_its_place_to_others_while_it_waits(self, tmp_path):
        limits = Limits(concurrency=2, endpoint_concurrency=1, max_waiting=0)
        async with scene(tmp_path, orders=failing_first(2, one_in=10), limits=limits) as worker:
            await enqueue(worker.store, 40)
            summary = await worker.run()
        assert (summary.delivered, summary.retried, summary.parked) == (40, 4, 0)

    async def test_a_chunk_counts_what_came_of_it_and_reports_some_of_its_dead_letters(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(Scene, "chunk_size", 60)

        async def send(event):
            number = json.loads(event.body)
            if number < 25:
                raise UnexpectedStatus(400)
            if number < 29:
                raise UnexpectedStatus(503 if number < 28 else 502)

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store, 60)
            await worker.run()
        done = worker.done[0]
        assert str(done) == (
            "31 delivered, 4 parked (1 http_502, 3 http_503), 25 dead-lettered (20 shown as task runs)"
        )
        assert len(done.shown) == MOST_SHOWN
        assert {type(report.decision) for report in done.shown} == {GiveUp}

    async def test_a_delivery_whose_lease_was_lost_in_a_send_goes_alone_and_its_retries_too(self, tmp_path):
        clock, mended = FixedClock(START), asyncio.Event()

        async def send(event):
            if event.id in lost and not mended.is_set():
                raise UnexpectedStatus(503)

        async with scene(tmp_path, orders=send, clock=clock) as worker:
            lost = (await enqueue(worker.store, 6))[:2]
            async with another_worker(tmp_path, clock=clock) as store:
                leases = await store.claim("orders", owner="dead", limit=2)
                await store.begin(leases)  # and then it is killed
            clock.advance(61)
            running = asyncio.create_task(worker.run(take_over=True))
            await until(lambda: len(worker.reports) == 2)
            assert {type(report.decision) for report in worker.reports} == {Park}
            mended.set()
            clock.advance(1)
            assert (await running).delivered == 6
        assert worker.chunks == [4], "what may have crashed a worker takes no chunk with it"
        assert len(worker.reports) == 4

    async def test_several_endpoints_share_what_is_claimed_for_chunks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 50)
        monkeypatch.setattr("resonant.dispatch.fetcher.MOST_CLAIMED", 4 * 50)

        held = []

        async def slowly(_event):
            await asyncio.sleep(0.01)

        names = [f"hooks-{n}" for n in range(9)]
        async with scene(
            tmp_path, sinks=dict.fromkeys(names, slowly), limits=Limits(concurrency=4)
        ) as worker:
            for name in names:
                await enqueue(worker.store, 60, name)
            claim = worker.store.claim_each

            async def claim_and_count(*args, **options):
                found = await claim(*args, **options)
                busy = sum(map(worker.dispatcher._in_flight.busy, names))
                held.append(busy + sum(map(len, found.values())))
                return found

            worker.store.claim_each = claim_and_count
            assert (await worker.run()).delivered == 9 * 60
        assert max(held) <= 4 * 50

    async def test_what_a_chunk_says_of_itself_counts_what_was_lost(self, tmp_path):
        stealing = []

        async def steal():
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.rescue(owners=["worker"])

        async def send(_event):
            if not stealing:
                stealing.append(asyncio.create_task(steal()))
            await stealing[0]

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store, 3)
            summary = await worker.run()
        assert str(worker.done[0]) == "0 delivered, 0 parked, 0 dead-lettered, 3 taken over by another worker"
        assert (summary.delivered, summary.lost) == (3, 3), "and then delivered one by one"

    async def test_no_chunk_begins_once_a_run_is_cancelled(self, tmp_path):
        async def refuse(_event):
            sending.set()
            raise UnexpectedStatus(503)

        sending = asyncio.Event()
        async with scene(tmp_path, orders=refuse) as worker:
            await enqueue(worker.store, 4)
            running = asyncio.create_task(worker.run())
            await sending.wait()
            running.cancel()
            await asyncio.wait([running])
            assert len(worker.chunks) == 1
        assert {row[0] for row in deliveries(tmp_path, "lease_owner")} == {None}

    async def test_when_the_time_is_up_what_was_not_begun_goes_back_untried(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 12)

        blocked = asyncio.Event()

        async def wait(_event):
            await blocked.wait()

        limits = Limits(concurrency=2, endpoint_concurrency=1, run_for=0.2)
        async with scene(tmp_path, orders=wait, limits=limits) as worker:
            await enqueue(worker.store, 12)
            running = asyncio.create_task(worker.run())
            await until(worker.dispatcher._running.is_over)
            blocked.set()
            summary = await running
        tried = sum(row[0] for row in deliveries(tmp_path, "attempts"))
        assert summary.delivered == tried < 12
        assert {row[0] for row in deliveries(tmp_path, "lease_owner")} == {None}
