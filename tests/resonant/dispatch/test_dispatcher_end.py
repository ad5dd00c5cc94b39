"""How long a run of the dispatcher goes on, and how it sends given leases."""

import asyncio

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.limits import Limits
from resonant.errors import EndpointError
from support.dispatching import (
    answering,
    at_work,
    deliveries,
    enqueue,
    failing_first,
    hang,
    ran,
    rows,
    scene,
    succeed,
)
from support.waiting import until


class TestGivenLeases:
    @staticmethod
    async def claim(worker, count, *, endpoint="orders"):
        await enqueue(worker.store, count, endpoint)
        return await worker.store.claim(endpoint, owner="worker", limit=count)

    async def test_they_are_emitted_like_due_deliveries(self, tmp_path):
        async def batches():
            yield await self.claim(worker, 3)
            yield await self.claim(worker, 2)

        async with scene(tmp_path, orders=failing_first()) as worker:
            counts = await worker.dispatcher.emit_given(worker.emit_one, batches())
            assert (counts.delivered, counts.retried) == (5, 5)
        assert deliveries(tmp_path, "status, attempts") == [("delivered", 2)] * 5

    async def test_more_are_requested_only_while_the_sends_keep_up(self, tmp_path):
        asked = []

        async def send(_event):
            await all_asked.wait()

        async def batches():
            for _ in range(50):
                asked.append(1)
                yield await self.claim(worker, 1)

        all_asked = asyncio.Event()
        async with scene(tmp_path, orders=send, limits=Limits(concurrency=4)) as worker:
            emitting = asyncio.create_task(worker.dispatcher.emit_given(worker.emit_one, batches()))
            await asyncio.sleep(10)
            assert len(asked) == 8
            all_asked.set()
            assert (await emitting).delivered == 50

    async def test_an_unknown_endpoint_is_an_error_and_all_leases_are_released(self, tmp_path):
        before = asyncio.all_tasks()

        async def batches():
            yield await self.claim(worker, 2)
            yield await self.claim(worker, 2, endpoint="forgotten")

        async with scene(tmp_path, orders=hang) as worker:
            with pytest.raises(EndpointError, match="'forgotten'"):
                await worker.dispatcher.emit_given(worker.emit_one, batches())
        assert asyncio.all_tasks() == before
        assert deliveries(tmp_path, "lease_owner, attempts") == [(None, 0)] * 4

    @pytest.mark.parametrize("late", [False, True], ids=["while it waits", "while it asks for more"])
    async def test_a_failure_of_the_pipeline_is_raised(self, tmp_path, late):
        async def emit_one(_lease):
            raise RuntimeError("the pipeline is broken")

        async def batches():
            yield await self.claim(worker, 1)
            if late:
                await until(lambda: not worker.dispatcher._running)

        async with scene(tmp_path, orders=succeed) as worker:
            with pytest.raises(RuntimeError, match="the pipeline is broken"):
                await worker.dispatcher.emit_given(emit_one, batches())


@pytest.mark.usefixtures("lane")
class TestTheEnd:
    async def test_a_run_ends_when_its_time_is_up_though_nothing_is_due(self, tmp_path):
        now = asyncio.get_running_loop().time
        began_at = now()
        await ran(tmp_path, orders=succeed, limits=Limits(run_for=3))
        assert now() == pytest.approx(began_at + 3, abs=0.3)

    @pytest.mark.parametrize(("limits", "number"), [(Limits(), 0), (Limits(run_for=3), 1)])
    async def test_a_drain_warns_once_of_a_database_that_may_lose_commits(
        self, tmp_path, caplog, limits, number
    ):
        async with scene(tmp_path, orders=succeed, due=1, limits=limits) as worker:
            worker.store.durability_problem = "fsync is off"
            await worker.run()
        assert caplog.messages.count("fsync is off") == number

    @pytest.mark.parametrize(
        ("policy", "retry_after", "run_for"),
        [(RetryPolicy(base=29.0, jitter="none"), None, 25), (RetryPolicy.classic(), "3600", 60)],
        ids=["beyond the end of the run", "for long, though its policy parks nothing"],
    )
    async def test_a_retry_that_would_wait_too_long_is_parked(self, tmp_path, policy, retry_after, run_for):
        options = {"policy": policy, "limits": Limits(run_for=run_for), "due": 1}
        async with at_work(tmp_path, orders=answering(503, retry_after), **options) as (worker, _):
            await until(lambda: worker.counts.attempts)
            assert worker.counts.retried == 0
            assert rows(tmp_path, "SELECT DISTINCT decision FROM resonant_attempts") == [("park",)]

    async def test_deliveries_that_wait_when_the_time_is_up_are_released_untried(self, tmp_path):
        async def send(_event):
            worker.dispatcher._running.end_in(0.1)
            await until(worker.dispatcher._running.is_over)

        async with scene(tmp_path, orders=send, limits=Limits(concurrency=1, run_for=60), due=3) as worker:
            assert (await worker.run()).delivered == 1
        left = [("delivered", 1), ("pending", 0), ("pending", 0)]
        assert deliveries(tmp_path, "status, attempts") == left

    async def test_nothing_is_claimed_and_begun_sends_end_once_the_time_is_up(self, tmp_path):
        another = asyncio.Event()

        async def send(_event):
            worker.dispatcher._running.end_in(0.1)
            await another.wait()

        limits = Limits(concurrency=1, run_for=60)
        async with at_work(tmp_path, orders=send, limits=limits, due=1) as (worker, run):
            await until(worker.dispatcher._running.is_over)
            await enqueue(worker.store)
            another.set()
            assert (await run).delivered == 1
        assert deliveries(tmp_path, "status") == [("delivered",), ("pending",)]

    async def test_a_run_looks_again_if_its_last_send_ended_during_a_look(self, tmp_path, monkeypatch):
        looking = asyncio.Event()

        async def send(_event):
            await looking.wait()

        async with scene(tmp_path, orders=send, due=1) as worker:
            look = worker.store.look

            async def look_for_long(endpoint=None, **options):
                found = await look(endpoint, **options)
                if worker.dispatcher._running and worker.dispatcher.counts.attempts == 0:
                    looking.set()
                    await until(lambda: not worker.dispatcher._running)
                    await enqueue(worker.store, 2)
                return found

            monkeypatch.setattr(worker.store, "look", look_for_long)
            assert (await worker.run()).delivered > 1
