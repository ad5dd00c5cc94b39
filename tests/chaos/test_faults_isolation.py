"""An endpoint that never answers, and one that does, in the same run: the one does not hold up the other."""

import asyncio
from dataclasses import dataclass

import pytest
from faults import IS_LONG, LANES, Fault, note_figures

from resonant.delivery.retry import RetryPolicy
from support.dispatching import emit
from support.receivers import started_receiver
from support.waiting import until

_DEAD, _HEALTHY = (10_000, 10_000) if IS_LONG else (1_000, 1_500)
_TIMEOUT_SECONDS = 0.5 if IS_LONG else 0.2
_FIRST_FAILURES = 4
# Of the healthy one's rate alone. To wait for the dead one's time-outs would leave a tenth; a short run is all noise.
_LEAST_SHARE = 0.5 if IS_LONG else 0.3
_POLICY = RetryPolicy(max_attempts=1000, base=0.2, factor=2.0, cap=2.0)
# As shipped.
_CONCURRENCY, _ENDPOINT_CONCURRENCY = 100, 50


@dataclass
class Neighbours:
    """The receivers: one that answers, and one that does so only once it is woken."""

    healthy: object
    asleep: object
    woken: object

    @property
    def urls(self) -> dict[str, str]:
        return {"healthy": self.healthy.url, "asleep": self.asleep.url}


@pytest.fixture
def neighbours(tmp_path):
    woken = tmp_path / "woken"
    with (
        started_receiver(tmp_path / "healthy", "resonant.testing:always_ok") as healthy,
        started_receiver(
            tmp_path / "asleep", "support.receiver_scripts:silent_until_repaired", REPAIRED=str(woken)
        ) as asleep,
    ):
        yield Neighbours(healthy, asleep, woken)


def events_a_second(neighbours: Neighbours, ids: set[str]) -> float:
    """Return how fast they came, without the first and the last tenth, which have a run's beginning and end in them."""
    received = neighbours.healthy.received()
    moments = sorted(received[event_id][0]["received_at"] for event_id in ids)
    tenth = len(moments) // 10
    return (len(moments) - 2 * tenth) / (moments[-tenth] - moments[tenth])


@pytest.mark.alone
@LANES
async def test_an_endpoint_that_never_answers_does_not_delay_another(sqlite_url, neighbours, lane):
    fault = Fault(
        sqlite_url,
        neighbours.healthy,
        lane,
        policy=_POLICY,
        timeouts={"asleep": _TIMEOUT_SECONDS},
        more_receivers=(neighbours.asleep,),
    )
    fixed = {
        "urls": neighbours.urls,
        "concurrency": _CONCURRENCY,
        "endpoint_concurrency": _ENDPOINT_CONCURRENCY,
    }

    def tries_of_the_dead() -> int:
        return neighbours.asleep.path.read_bytes().count(b"\n")

    async def alone() -> float:
        ids = await fault.enqueue(_HEALTHY, "healthy")
        async with fault.opened_store() as store, fault.opened_emission(store, **fixed) as dispatcher:
            assert (await emit(dispatcher, endpoint="healthy")).delivered == _HEALTHY
        return events_a_second(neighbours, ids)

    async def beside() -> tuple[float, int]:
        await fault.enqueue(_DEAD, "asleep")
        async with fault.opened_store() as store, fault.opened_emission(store, **fixed) as dispatcher:
            emitting = asyncio.create_task(emit(dispatcher))
            # Some sends to the dead endpoint fail before the other endpoint has events.
            await until(lambda: dispatcher.counts.attempts >= _FIRST_FAILURES)
            tries = tries_of_the_dead()
            ids = await fault.enqueue(_HEALTHY, "healthy")
            await until(lambda: dispatcher.counts.delivered == _HEALTHY)
            tries = tries_of_the_dead() - tries
            assert await store.unfinished("asleep") == _DEAD
            emitting.cancel()
            await asyncio.wait([emitting])
        return events_a_second(neighbours, ids), tries

    async def afterwards() -> None:
        neighbours.woken.touch()
        async with asyncio.timeout(120), fault.opened_store() as store:
            while await store.unfinished():
                await fault.emit(**fixed)

    before, (with_the_dead, tries), after = await alone(), await beside(), await alone()
    figures = {
        "alone": [round(before), round(after)],
        "beside a dead one": round(with_the_dead),
        "ratio": round(with_the_dead / ((before + after) / 2), 2),
        "tries of the dead meanwhile": tries,
    }
    note_figures(f"isolation, {lane} lane, events/s", figures)
    await afterwards()
    assert tries <= _CONCURRENCY, "its gate holds it"
    assert with_the_dead >= _LEAST_SHARE * min(before, after), figures

    # The sends in flight when the run was cancelled.
    account = fault.account(most_twice=_ENDPOINT_CONCURRENCY)
    assert account["delivered"] == 2 * _HEALTHY + _HEALTHY + _DEAD
