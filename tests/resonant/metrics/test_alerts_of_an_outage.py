"""The alerts of an outage, in simulated time, through a real store and the real dispatcher."""

import asyncio

import pytest

from resonant.dispatch.limits import Limits
from resonant.errors import UnexpectedStatus
from resonant.metrics.alerts import crossings, read_raised, record_crossings
from resonant.metrics.conditions import evaluate, read_activity
from resonant.metrics.totals import read_totals
from resonant.settings import Settings
from support.dispatching import START, dispatching, emit, enqueue, opened
from support.simulated_time import clock_from, run_in_simulated_time

MINUTE = 60.0
OUTAGE = 16 * MINUTE
MAX_AGE = 25 * MINUTE
SETTINGS = Settings.model_construct(alert_probing_minutes=10.0)
WINDOW = SETTINGS.alert_window_seconds


async def alerts_of_an_outage(path):
    """Let a receiver answer 503 for a while; return the alerts that began and ended, with the minutes of their exports."""
    clock = clock_from(START)

    async def answer(_event):
        await asyncio.sleep(0.02)
        if clock() < START + OUTAGE:
            raise UnexpectedStatus(503)

    async def export(store, announced):
        while True:
            await asyncio.sleep(5 * MINUTE)
            now = clock()
            totals = await store.read(read_totals, now=now)
            await store.fold()
            activity = await store.read(read_activity, now=now, window=WINDOW)
            max_ages = dict.fromkeys(totals.oldest_round_at, MAX_AGE)
            found = evaluate(totals, activity, SETTINGS, now, max_ages)
            crossed = crossings(found, await store.read(read_raised), WINDOW, now)
            assert await store.write(record_crossings, crossed) == sorted(crossed, key=lambda each: each.key)
            announced += [
                (round((now - START) / MINUTE), each.what, each.condition.value)
                for each in sorted(crossed, key=lambda each: each.key)
            ]

    announced = []
    limits = Limits(run_for=OUTAGE + 5 * MINUTE, chunk_size=100)
    async with opened(f"sqlite:///{path / 'r.db'}", clock=clock) as store:
        await enqueue(store, 200)
        async with dispatching(store, answer, limits=limits) as dispatcher:
            exporting = asyncio.create_task(export(store, announced))
            await emit(dispatcher)
            exporting.cancel()
    return announced


@pytest.mark.slow
def test_an_outage_raises_its_own_alerts_and_no_other(tmp_path):
    assert run_in_simulated_time(alerts_of_an_outage(tmp_path)) == [
        (5, "raised", "error_rate"),
        (15, "raised", "held"),
        (15, "raised", "probing"),
        (20, "recovered", "error_rate"),
        (20, "recovered", "held"),
        (20, "recovered", "probing"),
    ]
