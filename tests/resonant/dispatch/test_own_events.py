"""A run that finds an endpoint gone sends the event about it to the subscribers."""

import json

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.testing import Receiver, respond
from support.dispatching import enqueue, http_target, rows, scene
from support.subscriptions import subscribe_in

ONCE = RetryPolicy(max_attempts=1)


@pytest.mark.usefixtures("lane")
async def test_a_410_of_one_endpoint_is_one_event_for_the_chat(tmp_path):
    async with Receiver(respond(410)) as shop, Receiver() as chat:
        targets = {"orders": http_target("orders", shop.url), "chat": http_target("chat", chat.url)}
        async with scene(tmp_path, sinks=targets) as worker:
            await worker.store.write(subscribe_in, "chat", "resonant.endpoint.*")
            await enqueue(worker.store, 3)
            await worker.run()
            await worker.run()
            status = await worker.store.status()

    assert len(shop.journal) == 1
    [message] = chat.journal
    assert message.headers["ce-type"] == "resonant.endpoint.paused"
    assert message.headers["ce-source"] == "/resonant"
    assert message.headers["ce-subject"] == "orders"
    assert json.loads(message.body)["reason"] == "it answered 410"
    assert (status.balanced, status.accepted, status.held) == (True, 4, 2)


@pytest.mark.usefixtures("lane")
async def test_a_chat_that_fails_too_causes_no_more_events(tmp_path):
    async with Receiver(respond(400)) as both:
        targets = {name: http_target(name, both.url) for name in ("orders", "chat")}
        async with scene(tmp_path, sinks=targets, policy=ONCE) as worker:
            await worker.store.write(subscribe_in, "chat", "resonant.*")
            await worker.store.write(subscribe_in, "orders", "*", "resonant.*")
            await enqueue(worker.store, 2)
            for _ in range(3):
                await worker.run()
            status = await worker.store.status()

    assert rows(tmp_path, "SELECT type, count(*) FROM resonant_events GROUP BY type ORDER BY type") == [
        ("order.paid", 2),
        ("resonant.delivery.dead", 2),
    ]
    assert (status.dead_letter, status.balanced) == (4, True)
