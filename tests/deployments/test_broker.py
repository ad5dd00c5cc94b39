"""The broker of our Prefect servers: messages wait for their readers, and are never dropped."""

import asyncio
import inspect

import pytest
from prefect.server.utilities.messaging import BrokerModule, StopConsumer
from prefect.server.utilities.messaging.memory import Cache, Topic

from deployments import broker
from support.waiting import PATIENCE_SECONDS


@pytest.fixture
def topic():
    yield "broker-test"
    Topic._topics.pop("broker-test").clear()


def publisher(topic: str) -> broker.Publisher:
    return broker.Publisher(topic, Cache(), deduplicate_by="id")


async def send(topic: str, count: int) -> None:
    sender = publisher(topic)
    for number in range(count):
        await sender.publish_data(b"%d" % number, {"id": f"{topic}-{number}"})


def test_it_implements_prefects_broker_protocol():
    assert isinstance(broker, BrokerModule)


async def test_a_sender_waits_while_half_of_a_subscription_is_unread_and_nothing_is_dropped(
    topic, monkeypatch
):
    monkeypatch.setattr(broker, "PATIENCE_SECONDS", 3600)
    count = 12_000  # more than a subscription of Prefect's holds
    most_unread = 0

    async def run() -> list[bytes]:
        nonlocal most_unread
        subscription = broker.Consumer(topic).subscription
        sending = asyncio.create_task(send(topic, count))
        read = []
        while len(read) < count:
            most_unread = max(most_unread, subscription._queue.qsize())
            read.append((await subscription.get()).data)
        await sending
        return read

    assert await asyncio.wait_for(run(), 60) == [b"%d" % number for number in range(count)]
    assert broker.MOST_UNREAD - 1 <= most_unread <= broker.MOST_UNREAD


@pytest.mark.parametrize(("group", "first_read"), [("event-persister", 2), ("task-run-recorder", 0)])
async def test_the_event_feed_alone_gets_no_events_of_task_runs_and_no_loads_of_endpoints(
    topic, group, first_read
):
    events = [
        "prefect.task-run.Completed",
        "prefect.block.webhook-endpoint.loaded",
        "prefect.flow-run.Completed",
        "resonant.gate.probing",
    ]
    read = []

    async def handle(message):
        read.append(message.attributes["event"])
        if message.attributes["event"] == events[-1]:
            raise StopConsumer(ack=True)

    consumer = broker.Consumer(topic, concurrency=1, group=group)
    for event in events:
        await publisher(topic).publish_data(b"{}", {"id": f"{topic}-{group}-{event}", "event": event})

    await asyncio.wait_for(consumer.run(handle), PATIENCE_SECONDS)

    assert read == events[first_read:]


def test_the_service_of_the_event_feed_has_the_name_that_the_broker_knows():
    # Only here: it imports the database of the server, which takes a second.
    from prefect.server.events.services.event_persister import EventPersister

    assert f'group="{broker._FEED}"' in inspect.getsource(EventPersister.start)


async def test_a_sender_that_is_also_the_reader_continues_after_a_while(topic, monkeypatch):
    monkeypatch.setattr(broker, "MOST_UNREAD", 3)
    monkeypatch.setattr(broker, "PATIENCE_SECONDS", 0.1)
    count = broker.SENT_AT_ONCE + 2

    subscription = broker.Consumer(topic).subscription
    await asyncio.wait_for(send(topic, count), 60)
    assert subscription._queue.qsize() == count


async def test_a_sender_of_a_few_messages_does_not_wait_as_it_may_hold_the_lock_that_the_reader_needs(
    topic, monkeypatch
):
    monkeypatch.setattr(broker, "MOST_UNREAD", 3)
    monkeypatch.setattr(broker, "PATIENCE_SECONDS", 3600)

    subscription = broker.Consumer(topic).subscription
    for number in range(5):
        await asyncio.wait_for(publisher(topic).publish_data(b"", {"id": f"{topic}-few-{number}"}), 60)
    assert subscription._queue.qsize() == 5


async def test_every_subscription_gets_each_message_once_and_counts_its_own_retries(topic):
    subscriptions = [broker.Consumer(topic).subscription for _ in range(2)]
    for _ in range(2):
        await publisher(topic).publish_data(b"same", {"id": f"{topic}-same"})
    first, second = [await each.get() for each in subscriptions]
    assert all(each._queue.empty() for each in subscriptions)
    await subscriptions[0].retry(first)
    assert (first.data, first.retry_count) == (b"same", 1)
    assert (second.data, second.retry_count) == (b"same", 0)
