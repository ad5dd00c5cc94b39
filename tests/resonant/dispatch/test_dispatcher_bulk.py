"""What a run of the dispatcher does in the bulk lane."""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest

from resonant.delivery.retry import GiveUp, Park
from resonant.dispatch.limits import Limits
from resonant.errors import UnexpectedStatus
from resonant.testing import FixedClock
from support.dispatching import QUICK, START, Scene, another_worker, deliveries, enqueue, scene, succeed
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane")


class TestTheBulkLane:
    """What is said of it alone."""

    @pytest.fixture(autouse=True)
    def lane(self, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 4)

    async def test_first_attempts_are_made_together_and_only_what_failed_goes_on_alone(self, tmp_path):
        async def refuse_every_third(event):
            if json.loads(event.body) % 3 == 0:
                raise UnexpectedStatus(503)

        async with scene(tmp_path, orders=refuse_every_third) as worker:
            await enqueue(worker.store, 10)
            summary = await worker.run()
        assert worker.chunks == [4, 4, 2]
        assert (summary.delivered, summary.retried, summary.dead_letters) == (6, 4, {"exhausted": 4})
        # What failed in a chunk is reported first, and not attempted again for that.
        assert Counter(report.attempt.number for report in worker.reports) == {1: 4, 2: 4, 3: 4}
        assert deliveries(tmp_path, "attempts") == [(3,) if n % 3 == 0 else (1,) for n in range(10)]

    @pytest.mark.parametrize("status", [400, 503])
    async def test_what_is_given_up_or_parked_at_once_is_reported_alone_too(self, tmp_path, status):
        async def refuse(_event):
            raise UnexpectedStatus(status)

        policy = replace(QUICK, park_after=0.5)
        async with scene(tmp_path, orders=refuse, policy=policy) as worker:
            await enqueue(worker.store, 2)
            summary = await worker.run()
        assert [type(report.decision) for report in worker.reports] == [GiveUp if status == 400 else Park] * 2
        assert (summary.parked, summary.dead_letters.total()) == ((0, 2) if status == 400 else (2, 0))
        assert summary.attempts == 2

    async def test_a_delivery_that_was_tried_before_is_not_tried_together_with_others(self, tmp_path):
        clock = FixedClock(START)
        async with scene(tmp_path, orders=succeed, clock=clock) as worker:
            await enqueue(worker.store, 6)
            async with another_worker(tmp_path, clock=clock) as store:
                leases = await store.claim("orders", owner="dead", limit=2)
                await store.begin(leases)  # and then it is killed
            clock.advance(61)
            summary = await worker.run(take_over=True)
        assert summary.delivered == 6
        assert worker.chunks == [4], "what may have crashed a worker takes no chunk with it"
        assert len(worker.reports) == 2

    async def test_a_failure_that_waits_for_its_turn_holds_up_the_claims(self, tmp_path, monkeypatch):
        async def refuse(_event):
            raise UnexpectedStatus(400)

        waiting, most = [], []

        async def emit_one(lease):
            waiting.append(lease.event.id)
            most.append(len(waiting))
            await gate.wait()
            waiting.remove(lease.event.id)
            await worker.emit_one(lease)

        gate = asyncio.Event()
        limits = Limits(concurrency=8, endpoint_concurrency=4)
        async with scene(tmp_path, orders=refuse, limits=limits) as worker:
            await enqueue(worker.store, 60)
            running = asyncio.create_task(worker.dispatcher.run(emit_one, emit_chunk=worker.emit_chunk))
            await asyncio.sleep(0.3)
            gate.set()
            assert (await running).dead_letters.total() == 60
        assert max(most) <= 4 * 4, "more than is claimed ahead of four slots"
        assert len(most) == 60

    async def test_several_endpoints_share_what_is_claimed_for_chunks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Scene, "chunk_size", 50)

        held = []

        async def slowly(_event):
            await asyncio.sleep(0.01)

        names = [f"hooks-{n}" for n in range(9)]
        async with scene(
            tmp_path, sinks=dict.fromkeys(names, slowly), limits=Limits(concurrency=4)
        ) as worker:
            for name in names:
                await enqueue(worker.store, 60, name)
            claim = worker.store.claim

            async def claim_and_count(name, **options):
                found = await claim(name, **options)
                held.append(sum(map(worker.dispatcher._in_flight.busy, names)) + len(found))
                return found

            worker.store.claim = claim_and_count
            assert (await worker.run()).delivered == 9 * 60
        assert max(held) <= 4 * 50

    async def test_what_a_chunk_says_of_itself_counts_what_was_lost(self, tmp_path):
        done, stealing = Counter(), []

        async def steal():
            async with another_worker(tmp_path, clock=worker.clock) as other:
                await other.rescue(owners=["worker"])

        async def send(_event):
            if not stealing:
                stealing.append(asyncio.create_task(steal()))
            await stealing[0]

        async def emit_chunk(leases):
            done.update(await worker.dispatcher.attempt_all("orders", [lease.key for lease in leases]))

        async with scene(tmp_path, orders=send) as worker:
            await enqueue(worker.store, 3)
            summary = await worker.dispatcher.run(worker.emit_one, emit_chunk=emit_chunk)
        assert (done["delivered"], done["lost"]) == (0, 3)
        assert (summary.delivered, summary.lost) == (3, 3), "and then delivered one by one"

    async def test_nothing_is_emitted_any_more_once_a_run_is_cancelled(self, tmp_path):
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
            before = len(worker.reports)
            await asyncio.sleep(0.3)  # while what was sent is still being written
            assert len(worker.reports) == before
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
