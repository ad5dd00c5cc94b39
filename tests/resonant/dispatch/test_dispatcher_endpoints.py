"""How a run of the dispatcher opens its endpoints."""

import asyncio
import time
from collections import Counter

import pytest

from resonant.dispatch.limits import Limits
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.sinks.base import CallableSink
from support.dispatching import START, deliveries, enqueue, rows, scene, sink_target, succeed
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane")


class TestEndpoints:
    async def test_a_named_endpoint_that_there_is_not_is_an_error(self, tmp_path):
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store)
            with pytest.raises(EndpointError, match="no endpoint is named 'ordres'"):
                await worker.run(endpoint="ordres")
        assert deliveries(tmp_path, "status") == [("pending",)]

    async def test_one_that_is_found_in_the_store_and_cannot_be_opened_does_not_stop_the_others(
        self, tmp_path
    ):
        async with scene(tmp_path, orders=succeed) as worker:
            await enqueue(worker.store, 2, endpoint="forgotten")
            await enqueue(worker.store, 2, endpoint="orders")
            summary = await worker.run()
            assert summary.delivered == 2
            assert summary.unknown_endpoints == {"forgotten": "no endpoint is named 'forgotten'"}
        assert Counter(deliveries(tmp_path, "endpoint, status, lease_owner")) == {
            ("forgotten", "pending", None): 2,
            ("orders", "delivered", None): 2,
        }

    @pytest.mark.parametrize(
        "error", [UnicodeError("xn--s3cret"), RuntimeError("s3cret"), KeyError("s3cret")]
    )
    async def test_an_error_in_opening_an_endpoint_holds_back_only_its_deliveries(self, tmp_path, error):
        class Sinks(dict):
            def __contains__(self, name):
                if name == "broken":
                    raise error
                return super().__contains__(name)

        async with scene(tmp_path, sinks=Sinks(orders=succeed)) as worker:
            await enqueue(worker.store, 2, endpoint="broken")
            await enqueue(worker.store, 2, endpoint="orders")
            summary = await worker.run()
            assert summary.delivered == 2
            reason = f"endpoint 'broken' cannot be opened: {type(error).__name__}"
            assert summary.unknown_endpoints == {"broken": reason}
            with pytest.raises(EndpointError, match=reason):
                await worker.run(endpoint="broken")
        assert Counter(deliveries(tmp_path, "endpoint, status, lease_owner")) == {
            ("broken", "pending", None): 2,
            ("orders", "delivered", None): 2,
        }

    async def test_one_that_turns_up_later_is_opened_then(self, tmp_path, quick_look, monkeypatch):
        monkeypatch.setattr("resonant.dispatch.destinations.REOPEN_SECONDS", 0.1)

        def problems(path):
            return rows(path, "SELECT endpoint, reason, since FROM resonant_endpoint_problems")

        sinks = {}
        async with scene(tmp_path, sinks=sinks, limits=Limits(run_for=60)) as worker:
            await enqueue(worker.store, endpoint="late")
            running = asyncio.create_task(worker.run())
            summary = worker.dispatcher.summary
            await until(lambda: "late" in summary.unknown_endpoints)
            await until(lambda: problems(tmp_path))
            assert problems(tmp_path) == [("late", "no endpoint is named 'late'", START)]
            sinks["late"] = succeed
            await until(lambda: summary.delivered == 1)
            assert summary.unknown_endpoints == {}
            assert problems(tmp_path) == []
            running.cancel()
            await asyncio.wait([running])

    async def test_one_that_takes_long_to_open_does_not_hold_up_the_others_and_is_waited_for(self, tmp_path):
        async def before_open(name):
            if name == "slow":
                await may_open.wait()

        may_open = asyncio.Event()
        async with scene(tmp_path, before_open=before_open, orders=succeed, slow=succeed) as worker:
            await enqueue(worker.store, endpoint="orders")
            await enqueue(worker.store, endpoint="slow")
            running = asyncio.create_task(worker.run())
            await until(lambda: worker.dispatcher.summary.delivered == 1)
            may_open.set()
            assert (await running).delivered == 2

    async def test_one_that_is_still_being_opened_when_the_run_is_stopped_is_given_up(self, tmp_path):
        async def before_open(_name):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        begun, ended = asyncio.Event(), asyncio.Event()
        async with scene(tmp_path, before_open=before_open, orders=succeed) as worker:
            await enqueue(worker.store)
            running = asyncio.create_task(worker.run())
            await begun.wait()
            running.cancel()
            await asyncio.wait([running])
        assert ended.is_set()
        assert deliveries(tmp_path, "status, lease_owner") == [("pending", None)]

    @pytest.mark.parametrize("names", [("dead", "healthy"), ("healthy", "dead")], ids=["first", "last"])
    @pytest.mark.parametrize("alphabet", ["az", pytest.param("za", marks=pytest.mark.slow)])
    async def test_one_that_never_answers_does_not_hold_up_another(self, tmp_path, names, alphabet):
        delivered = []

        async def healthy(event):
            await asyncio.sleep(0.001)
            delivered.append(event.id)
            if len(delivered) == 300:
                all_delivered.set()

        async def dead(_event):
            await all_delivered.wait()
            raise UnexpectedStatus(400)

        all_delivered = asyncio.Event()
        actual = {"dead": alphabet[0], "healthy": alphabet[1]}
        sinks = {actual["dead"]: dead, actual["healthy"]: healthy}
        async with scene(tmp_path, limits=Limits(concurrency=20, endpoint_concurrency=20), **sinks) as worker:
            for name in names:
                await enqueue(worker.store, 300, endpoint=actual[name])
            summary = await worker.run()
            assert summary.delivered == 300
            assert summary.dead_letters == {"permanent": 300}

    async def test_several_that_never_answer_do_not_hold_up_one_that_comes_later(self, tmp_path, quick_look):
        delivered, sending = [], []

        async def healthy(event):
            delivered.append(event.id)
            if len(delivered) == 100:
                all_delivered.set()

        async def dead(_event):
            sending.append(1)
            await all_delivered.wait()
            raise UnexpectedStatus(400)

        all_delivered = asyncio.Event()
        sinks = {"dead-1": dead, "dead-2": dead, "dead-3": dead, "healthy": healthy}
        async with scene(tmp_path, clock=time.time, limits=Limits(concurrency=40), **sinks) as worker:
            for name in ("dead-1", "dead-2", "dead-3"):
                await enqueue(worker.store, 100, endpoint=name)
            running = asyncio.create_task(worker.run())
            await until(lambda: len(sending) == 3)
            await enqueue(worker.store, 100, endpoint="healthy")
            assert (await running).delivered == 100

    async def test_its_own_limit_of_sends_is_kept(self, tmp_path):
        now, most = [], []

        async def send(_event):
            now.append(1)
            most.append(len(now))
            await asyncio.sleep(0.002)
            now.pop()

        destination = sink_target("orders", CallableSink(send), concurrency=3)
        async with scene(tmp_path, orders=destination) as worker:
            await enqueue(worker.store, 60)
            await worker.run()
        assert max(most) == 3
