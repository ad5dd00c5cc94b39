"""Events with an expirytime: after it, nothing is sent."""

import pytest

from resonant.dead_letters.replay import ReplayRequest, replay_batch
from resonant.dispatch.limits import Limits
from resonant.events import Event, rfc3339
from resonant.sinks.base import CallableSink
from resonant.store.views.selection import Selection
from support.dispatching import START, appending_to, deliveries, scene, sink_target
from support.simulated_time import clock_from

pytestmark = pytest.mark.usefixtures("lane")

EXPIRED = ("dead_letter", "expired", "event_expired", 0, None, None)
STATE = "status, reason, code, attempts, first_attempt_at, lease_owner"


def event(name, expires_at=None):
    extensions = {} if expires_at is None else {"expirytime": rfc3339(expires_at)}
    return Event(type="order.paid", source="/shop", data=1, id=name, extensions=extensions)


async def test_an_event_that_has_expired_is_not_sent(tmp_path):
    sent = []
    async with scene(tmp_path, orders=appending_to(sent)) as worker:
        times = {"1": START - 1, "2": START, "3": START + 0.001, "4": None}
        await worker.store.enqueue([event(*each) for each in times.items()], "orders")
        before = await worker.gate()
        counts = await worker.run()
        assert sorted(sent) == ["3", "4"]
        assert (counts.delivered, counts.dead_letters, counts.attempts) == (2, {"expired": 2}, 2)
        assert await worker.gate() == before
    assert deliveries(tmp_path, STATE)[:2] == [EXPIRED, EXPIRED]


@pytest.mark.parametrize(
    ("number", "rate", "gate"),
    [
        (300, None, None),
        (20, 0.01, None),
        (150, None, {"state": "probing", "failing_since": START, "probe_at": START}),
    ],
    ids=["without limits", "at a low rate", "before a probe"],
)
async def test_many_expired_events_are_given_up_and_delay_no_other(tmp_path, number, rate, gate):
    sent = []
    orders = sink_target("orders", CallableSink(appending_to(sent)), rate=rate)
    async with scene(tmp_path, clock=clock_from(START), orders=orders, gate=gate) as worker:
        expired = [event(f"{number}", START) for number in range(number)]
        await worker.store.enqueue([*expired, event("good")], "orders")
        counts = await worker.run()
    assert gate or counts.dead_letters == {"expired": number}
    assert sent == ["good"]


async def test_an_event_that_expires_while_it_waits_for_its_send_is_not_sent(tmp_path):
    sent = []

    async def send(given):
        sent.append(given.id)
        worker.clock.advance(10)

    async with scene(tmp_path, limits=Limits(concurrency=1), orders=send) as worker:
        await worker.store.enqueue([event(f"{number}", START + 5) for number in range(5)], "orders")
        counts = await worker.run()
        assert (counts.delivered, counts.dead_letters) == (1, {"expired": 4})
    assert len(sent) == 1
    assert deliveries(tmp_path, STATE).count(EXPIRED) == 4


async def test_a_replay_of_an_expired_event_sends_nothing(tmp_path):
    sent = []
    async with scene(tmp_path, orders=appending_to(sent)) as worker:
        await worker.store.enqueue([event("expired", START), event("good")], "orders")
        await worker.run()
        worker.clock.advance(1)
        request = ReplayRequest(Selection(), include_permanent=True, everything=True)
        options = {"died_before": worker.clock(), "limit": 9, "owner": "worker"}
        replayed = await worker.store.write_leases(replay_batch, request, **options)

        async def batches():
            yield replayed.leases

        counts = await worker.dispatcher.emit_given(worker.emit_one, batches())
        assert (len(replayed.leases), counts.dead_letters["expired"]) == (1, 2)
    assert sent == ["good"]
    assert deliveries(tmp_path, STATE)[0] == EXPIRED
