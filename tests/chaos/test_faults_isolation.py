"""An endpoint that never answers, and one that does, in the same run: the one does not hold up the other."""

import asyncio

import pytest
from faults import IS_LONG, LANES, Fault, note_figures

from resonant.delivery.retry import RetryPolicy
from support.dispatching import emit
from support.receivers import started_receiver
from support.waiting import until

_DEAD, _HEALTHY = (10_000, 10_000) if IS_LONG else (500, 500)
_FIRST_FAILURES = 4
_POLICY = RetryPolicy(max_attempts=1000, base=0.2, factor=2.0, cap=2.0)
# As shipped.
_CONCURRENCY, _ENDPOINT_CONCURRENCY = 100, 50


@pytest.fixture
def woken(tmp_path):
    """The file whose existence lets the silent endpoint answer."""
    return tmp_path / "woken"


@pytest.fixture
def asleep(tmp_path, woken):
    script = "support.receiver_scripts:silent_until_repaired"
    with started_receiver(tmp_path / "asleep", script, REPAIRED=str(woken)) as started:
        yield started


@LANES
async def test_an_endpoint_that_never_answers_does_not_delay_another(
    sqlite_url, receiver, asleep, woken, lane
):
    fault = Fault(
        sqlite_url, receiver, lane, policy=_POLICY, timeouts={"asleep": 0.5}, more_receivers=(asleep,)
    )
    fixed = {
        "urls": {"healthy": receiver.url, "asleep": asleep.url},
        "concurrency": _CONCURRENCY,
        "endpoint_concurrency": _ENDPOINT_CONCURRENCY,
    }

    await fault.enqueue(_DEAD, "asleep")
    async with fault.opened_store() as store, fault.opened_emission(store, **fixed) as dispatcher:
        emitting = asyncio.create_task(emit(dispatcher))
        # Some sends to the dead endpoint fail before the other endpoint has events.
        await until(lambda: dispatcher.counts.attempts >= _FIRST_FAILURES)
        before = len(asleep.journal)
        await fault.enqueue(_HEALTHY, "healthy")
        await until(lambda: dispatcher.counts.delivered == _HEALTHY)
        tries = len(asleep.journal) - before
        assert await store.unfinished("asleep") == _DEAD
        emitting.cancel()
        await asyncio.wait([emitting])
    note_figures(f"isolation, {lane} lane", {"tries of the dead meanwhile": tries})
    assert tries <= _CONCURRENCY, "its gate holds it"

    woken.touch()
    await fault.emit_all(**fixed)
    # The sends in flight when the run was cancelled.
    account = fault.account(most_twice=_ENDPOINT_CONCURRENCY)
    assert account["delivered"] == _HEALTHY + _DEAD
