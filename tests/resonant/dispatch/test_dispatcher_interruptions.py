"""How a run of the dispatcher ends when it is cancelled, or when the store goes away."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from resonant.dispatch.limits import Limits
from resonant.errors import StoreUnavailable, UnexpectedStatus
from resonant.testing import FixedClock
from support.dispatching import START, at_work, deliveries, enqueue, hang, ran, rows, scene, succeed
from support.event_loops import ON_BOTH_LOOPS
from support.lanes import in_task_lane
from support.sqlite import listening, locked
from support.waiting import until

_FULL = ": the disk is full: free some space and run the same command again"

pytestmark = pytest.mark.usefixtures("lane")


async def test_a_defect_in_the_last_fold_is_raised(tmp_path):
    async def fold():
        folds.append(len(folds))
        if len(folds) > 1:
            raise RuntimeError("a defect")

    folds = []
    async with scene(tmp_path, orders=succeed, due=1) as worker:
        worker.store.fold = fold
        with pytest.raises(RuntimeError, match="a defect"):
            await worker.run()
    assert deliveries(tmp_path, "status") == [("delivered",)]


class TestCancellation:
    @pytest.mark.parametrize("retries", [False, True], ids=["sending", "waiting for a retry"])
    async def test_it_releases_every_delivery_and_charges_no_attempt(self, tmp_path, retries):
        before = asyncio.all_tasks()
        begun, number = [], 3 if retries else 120

        async def send(event):
            if retries:
                raise UnexpectedStatus(503)
            begun.append(event.id)
            await hang(event)

        async def emit_one(lease):
            await worker.dispatcher.attempt(lease.key)
            begun.append(lease)
            await hang(lease.event)

        async with scene(tmp_path, orders=send, due=number) as worker:
            async with worker.running(emit_one if retries else None) as run:
                await until(lambda: len(begun) >= (3 if retries else 1))
                run.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await run
            assert worker.counts.attempts == 3 * retries
        assert asyncio.all_tasks() == before
        columns = "status, attempts, round_attempts, sending, available_at"
        left = ("retrying", 1, 1, 0, START + 1) if retries else ("pending", 0, 0, 0, START)
        assert deliveries(tmp_path, columns) == [left] * number

    async def test_it_cancels_the_sends_before_the_last_fold(self, tmp_path):
        async def send(event):
            steps.append("send")
            try:
                await hang(event)
            finally:
                steps.append("cancelled")

        async def fold():
            steps.append("fold")

        steps = []
        async with scene(tmp_path, orders=send, due=1) as worker:
            worker.store.fold = fold
            async with worker.running():
                await until(lambda: "send" in steps)
                steps.clear()
        assert steps == ["cancelled", "fold"]

    @in_task_lane
    @ON_BOTH_LOOPS
    @pytest.mark.parametrize("waits", [False, True], ids=["sending", "waiting"])
    def test_ctrl_c_does_the_same(self, tmp_path, waits, loop_factory):
        async def run():
            async def send(event):
                if waits:
                    raise UnexpectedStatus(503)
                os.kill(os.getpid(), signal.SIGINT)
                await hang(event)

            async def emit_one(lease):
                await worker.dispatcher.attempt(lease.key)
                os.kill(os.getpid(), signal.SIGINT)
                await hang(lease.event)

            async with scene(tmp_path, orders=send, due=1) as worker:
                await worker.dispatcher.run(emit_one)

        with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(run())
        assert deliveries(tmp_path, "sending, attempts") == [(0, int(waits))]

    @ON_BOTH_LOOPS
    def test_a_signal_handler_that_raises_does_the_same(self, tmp_path, loop_factory, without_polls):
        """Prefect cancels a flow run in this way.

        The loop must be idle: asyncio only logs an exception that a signal handler raises during a callback.
        """

        class Terminated(BaseException):
            pass

        def terminate(*_):
            raise Terminated

        def interrupt():
            """Wait until the loop waits: its innermost frame is then that of the selector, or of the loop that calls uvloop's."""
            while Path(sys._current_frames()[main].f_code.co_filename).stem not in ("selectors", "uv_loop"):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGUSR1)

        async def send(event):
            threading.Timer(0.05, interrupt).start()
            await hang(event)

        main = threading.get_ident()
        before = signal.signal(signal.SIGUSR1, terminate)
        try:
            with pytest.raises(Terminated), asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(ran(tmp_path, orders=send, due=1))
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert deliveries(tmp_path, "lease_owner, sending, attempts") == [(None, 0, 0)]

    @ON_BOTH_LOOPS
    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    def test_a_sink_that_is_interrupted_has_not_failed(self, tmp_path, error, loop_factory):
        async def send(_event):
            raise error

        with pytest.raises(error), asyncio.Runner(loop_factory=loop_factory) as runner:
            # A second interruption, while the first one is handled, would end the process at once.
            runner.run(ran(tmp_path, orders=send, limits=Limits(concurrency=1), due=3))
        assert deliveries(tmp_path, "status, attempts, lease_owner, sending") == [("pending", 0, None, 0)] * 3
        assert rows(tmp_path, "SELECT * FROM resonant_attempts") == []

    async def test_a_claim_that_is_cancelled_during_its_commit_is_released_too(self, tmp_path):
        def cancel(connection):
            query = "SELECT 1 FROM resonant_deliveries WHERE lease_owner = 'worker'"
            if tasks and connection.exec_driver_sql(query).fetchall():
                loop, task = tasks.pop()
                loop.call_soon_threadsafe(task.cancel)
                time.sleep(0.05)  # the commit takes its time

        tasks = []
        with listening("commit", cancel):
            async with at_work(tmp_path, orders=succeed, due=3) as (_, run):
                tasks.append((asyncio.get_running_loop(), run))
                await asyncio.wait([run])
                assert run.cancelled()
        assert deliveries(tmp_path, "lease_owner, lease_token") == [(None, 1)] * 3

    @in_task_lane
    async def test_a_run_that_fails_leaves_no_task_behind(self, tmp_path):
        before = asyncio.all_tasks()

        async def emit_one(lease):
            if lease.event.body == b"0":
                raise RuntimeError("the pipeline is broken")
            await hang(lease.event)

        async with scene(tmp_path, orders=succeed, due=5) as worker:
            with pytest.raises(RuntimeError, match="the pipeline is broken"):
                await worker.run(emit_one)
        assert asyncio.all_tasks() == before

    @in_task_lane
    async def test_an_emission_that_ends_without_an_attempt_fails_the_run(self, tmp_path):
        async def emit_one(_lease):
            return None

        async with scene(tmp_path, orders=succeed, due=1) as worker:
            said = f"emit_one returned without attempting {worker.ids[0]}"
            with pytest.raises(RuntimeError, match=said):
                await worker.run(emit_one)
        assert deliveries(tmp_path, "status") == [("pending",)]

    @pytest.mark.parametrize("lane", [100], indirect=True, ids=["bulk lane"])
    async def test_a_chunk_that_ends_while_a_delivery_is_unfinished_fails_the_run(self, tmp_path):
        async def emit_chunk(chunk):
            chunk.flights.pop()  # taken, as for an attempt, and never ended
            await worker.dispatcher.attempt_all(chunk)

        async with scene(tmp_path, orders=succeed, due=3) as worker:
            with pytest.raises(RuntimeError, match="emit_chunk returned without attempting"):
                await worker.run(worker.emit_one, emit_chunk=emit_chunk)


class TestTheStoreGoesAway:
    async def test_a_short_outage_has_no_effect(self, tmp_path, impatient_sqlite, quick_look):
        sent, stack = [], contextlib.ExitStack()

        async def send(_event):
            if not sent:
                stack.enter_context(locked(tmp_path / "r.db"))
                asyncio.get_running_loop().call_later(0.3, stack.close)
            sent.append(1)

        worker = await ran(tmp_path, orders=send, lease_seconds=15, due=200)
        assert worker.counts.delivered == 200
        assert set(deliveries(tmp_path, "status, attempts")) == {("delivered", 1)}

    @in_task_lane
    @pytest.mark.usefixtures("warm")
    async def test_after_a_longer_outage_the_run_fails_and_deliveries_in_flight_are_retried(
        self, tmp_path, disk, caplog
    ):
        before = asyncio.all_tasks()
        sent = []

        async def send(_event):
            sent.append(1)
            if len(sent) == 1:
                disk.is_read_only = True

        async def emit_one(lease):
            with contextlib.suppress(StoreUnavailable):  # as Prefect does not raise the errors of its tasks
                await worker.dispatcher.attempt(lease.key)

        options = {"lease_seconds": 1.5, "due": 3, "checks_books": False}
        async with scene(tmp_path, orders=send, **options) as worker:
            with pytest.raises(StoreUnavailable):
                await worker.run(emit_one)
        assert asyncio.all_tasks() == before
        assert "leases were not released" in caplog.text
        disk.is_read_only = False

        assert (await ran(tmp_path, orders=send, clock=FixedClock(START + 60))).counts.delivered == 3
        assert len(sent) == 6
        assert Counter(deliveries(tmp_path, "status, attempts")) == {("delivered", 2): 3}

    @pytest.mark.usefixtures("warm")
    async def test_a_drain_keeps_the_outcomes_of_its_sends_until_the_store_is_back(
        self, tmp_path, disk, caplog
    ):
        sent = []

        async def send(_event):
            sent.append(1)
            if len(sent) == 3:
                disk.is_full = True

        def delivered():
            return deliveries(tmp_path, "status, attempts, crashes") == [("delivered", 1, 0)] * 4

        options = {"lease_seconds": 1.5, "limits": Limits(successors=1), "due": 3}
        async with at_work(tmp_path, orders=send, **options) as (worker, _):
            await until(lambda: "waiting for the store" in caplog.text)
            worker.clock.advance(60)  # its leases end
            refused = disk.refused
            await until(lambda: disk.refused > refused + 3)
            disk.is_full = False
            await enqueue(worker.store)
            await until(delivered)
        assert len(sent) == 4
        assert caplog.messages == ["waiting for the store: sqlite:///" + str(tmp_path / "r.db") + _FULL]

    @pytest.mark.usefixtures("warm")
    async def test_a_drain_keeps_the_outcomes_of_its_sends_also_after_its_time_is_up(self, tmp_path, disk):
        sent = []

        async def send(_event):
            sent.append(1)
            if len(sent) == 3:
                disk.is_full = True

        options = {"lease_seconds": 1.5, "limits": Limits(run_for=1, successors=1), "due": 3}
        async with at_work(tmp_path, orders=send, **options) as (worker, run):
            await until(lambda: worker.dispatcher._running.is_over() and disk.refused)
            refused = disk.refused
            await until(lambda: disk.refused > refused + 5)
            disk.is_full = False
            await run
        assert deliveries(tmp_path, "status, attempts, crashes") == [("delivered", 1, 0)] * 3
        assert len(sent) == 3

    async def test_the_error_that_ends_the_run_is_the_only_message(self, tmp_path, disk, caplog):
        async def send(_event):
            disk.is_read_only = True

        with pytest.raises(StoreUnavailable):
            await ran(tmp_path, orders=send, lease_seconds=1.5, due=3)
        assert not caplog.messages

    @pytest.mark.parametrize("endpoint", [None, "orders"])
    async def test_a_run_waits_for_a_lock_before_its_first_send(self, tmp_path, impatient_sqlite, endpoint):
        stack = contextlib.ExitStack()
        async with scene(tmp_path, orders=succeed, lease_seconds=15, due=1) as worker:
            stack.enter_context(locked(tmp_path / "r.db"))
            asyncio.get_running_loop().call_later(0.2, stack.close)
            assert (await worker.run(endpoint=endpoint)).delivered == 1

    @in_task_lane
    async def test_a_failure_during_a_look_fails_the_run(self, tmp_path, quick_look):
        async def emit_one(_lease):
            await asked_again.wait()
            raise RuntimeError("broken")

        asked_again = asyncio.Event()
        async with scene(tmp_path, orders=succeed, due=1) as worker:
            look = worker.store.look

            async def look_while_it_breaks(endpoint, **options):
                if worker.dispatcher._running:
                    asked_again.set()
                    while worker.dispatcher._running:
                        await asyncio.sleep(0)
                return await look(endpoint, **options)

            worker.store.look = look_while_it_breaks
            with pytest.raises(RuntimeError, match="broken"):
                await worker.run(emit_one, endpoint="orders")

    async def test_a_failure_of_a_renewal_fails_the_run(self, tmp_path):
        async def renew(*_args, **_options):
            raise RuntimeError("broken")

        async with scene(tmp_path, lease_seconds=0.1, orders=hang, due=1) as worker:
            worker.store.renew = renew
            with pytest.raises(RuntimeError, match="broken"):
                await worker.run()
