"""A delivery whose flow run has not ended waits in the store, without a lease, and charges nothing."""

import asyncio

import pytest

from resonant.dead_letters.cancel import cancel
from resonant.dead_letters.replay import ReplayRequest, replay_batch
from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.limits import Limits
from resonant.errors import RunFailed, RunUnfinished, UnexpectedStatus
from resonant.metrics.conditions import evaluate, read_activity
from resonant.metrics.statistics import read_statistics
from resonant.metrics.totals import read_totals
from resonant.settings import Settings
from resonant.sinks.base import Receipt, attempt_lease
from resonant.store.views.selection import Selection
from support.dispatching import START, at_work, deliveries
from support.metrics import plain
from support.simulated_time import clock_from
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane")

UNFINISHED = RunUnfinished("the run is Running", 200, "flow run 1", 10.0)


class Runs:
    """Flow runs that are unfinished, until they end on command."""

    def __init__(self, result=UNFINISHED):
        self.result, self.looks, self.charged = result, 0, set()

    async def send(self, _event):
        await asyncio.sleep(0.01)
        self.looks += 1
        lease = attempt_lease.get()
        self.charged.add((lease.round, lease.round_attempts))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def at_work(self, path, due, *, policy=None):
        """Run a scene in simulated time."""
        options = {
            "clock": clock_from(START),
            "policy": policy or RetryPolicy(),
            "limits": Limits(run_for=7200),
        }
        return at_work(path, orders=self.send, due=due, **options)


async def test_looks_hold_no_lease_charge_nothing_and_end_with_the_delivery(tmp_path):
    runs = Runs()
    async with runs.at_work(tmp_path, due=3) as (worker, _):
        await until(lambda: runs.looks >= 15)
        await until(lambda: set(deliveries(tmp_path, "lease_owner")) == {(None,)})
        assert set(deliveries(tmp_path, "status, round_attempts, code")) == {
            ("retrying", 0, "run_unfinished")
        }
        assert 40 <= worker.clock() - START < 60, "each is looked at after 10 to 12 s"
        assert not worker.governs()
        runs.result = Receipt(200, "flow run 1")
        await until(lambda: worker.counts.delivered == 3)
    assert runs.charged == {(1, 0)}


async def test_failed_runs_are_charged_and_the_gate_stays_open(tmp_path):
    runs = Runs(RunFailed("the run is Failed", 200, "flow run 1"))
    async with runs.at_work(tmp_path, due=30) as (worker, _):
        await until(lambda: worker.counts.dead_letters["exhausted"] == 30)
        assert not worker.governs()
    assert runs.charged == {(1, 0), (1, 1), (1, 2)}


async def test_a_closed_gate_opens_when_runs_are_created_again(tmp_path):
    runs = Runs(UnexpectedStatus(503))
    async with runs.at_work(tmp_path, due=60) as (worker, _):
        await until(worker.governs)
        runs.result = UNFINISHED
        await until(lambda: not worker.governs())
        runs.result = Receipt(200)
        await until(lambda: worker.counts.delivered == 60)


async def numbers(worker):
    """Return the counts of all endpoints, and the alerts."""

    def read(connection):
        now, settings = worker.clock(), Settings.model_construct()
        activity = read_activity(connection, now=now, window=settings.alert_window_seconds)
        found = evaluate(read_totals(connection, now=now), activity, settings, now, {})
        return read_statistics(connection, now=now, since=START - 60), [each for each in found if each.is_bad]

    statistics, alerts = await worker.store.read(read)
    [overall] = plain(statistics)["overall"].values()
    return overall, alerts


def values(overall):
    return [overall[each] for each in ("attempts", "failed_attempts", "retries", "unfinished", "success")]


async def test_looks_are_neither_attempts_nor_retries_in_metrics_and_raise_no_alert(tmp_path):
    runs = Runs()
    async with runs.at_work(tmp_path, due=40) as (worker, _):
        await until(lambda: runs.looks >= 120)
        overall, alerts = await numbers(worker)
        assert (values(overall), alerts) == ([0, 0, 0, 40, 0], [])
        assert overall["first_attempt_max"] < 60
        runs.result = RunFailed("the run is Failed", 200, "flow run 1")
        await until(lambda: runs.charged == {(1, 0), (1, 1)})
        runs.result = UNFINISHED
        runs.looks = 0
        await until(lambda: runs.looks >= 40)
        runs.result = Receipt(200, "flow run 1")
        await until(lambda: worker.counts.delivered == 40)
        overall, alerts = await numbers(worker)
    failed = overall["failed_attempts"]
    assert 0 < failed <= 40
    assert values(overall) == [40 + failed, failed, failed, 0, 40]
    assert overall["success_rate"] == 1


async def test_looks_are_no_retries_of_a_cancelled_or_replayed_delivery(tmp_path):
    runs, selection = Runs(), Selection(endpoint="orders")
    async with runs.at_work(tmp_path, due=3) as (worker, _):
        await until(lambda: runs.looks >= 9)
        store = worker.store
        assert await cancel(store, selection, who="me") == 3
        assert values((await numbers(worker))[0]) == [0, 0, 0, 0, 0]
        request = ReplayRequest(selection)
        options = {"died_before": store.clock() + 1, "limit": 9, "owner": "replay"}
        await store.write_leases(replay_batch, request, **options)
        assert values((await numbers(worker))[0]) == [0, 0, 0, 3, 0]
