"""The whole path of an event: input line, parser, store, request, and the library with which a receiver reads it."""

import asyncio
import uuid
from datetime import datetime

from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resonant import enqueue, open_store
from resonant.input_lines import parse_event
from resonant.sinks.http import HttpSink
from resonant.testing import Receiver, enqueued, respond
from support.events import changed
from support.examples import examples
from support.http_sinks import SECRET, endpoint
from support.lines import as_line
from support.wire_examples import IDS, attributes, events, same_data, without_time

# Two sources that count alike, an id with dots, and one that looks like the hash that replaces such ids.
SHARED_IDS = st.sampled_from(["1", "2", "a.1800000000.b", "evt_cdhsi6jzbpdiiqoc6gmmk6kyhg"]) | IDS


async def accept_and_send(url, written, mode):
    """Return every stored event, and the requests of the last ones."""
    async with (
        open_store(url) as store,
        Receiver(respond(200)) as receiver,
        HttpSink(endpoint(receiver.url, mode=mode, signing_secrets=(SECRET,))) as sink,
    ):
        await store.write(enqueue, [parse_event(as_line(event)) for event in written], "orders")
        every = [each.event for each in await store.read(enqueued)]
        for event in every[-len(written) :]:
            await sink.send(event)
    return every, receiver.journal


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(events(SHARED_IDS), min_size=1, max_size=4), mode=st.sampled_from(["binary", "structured"])
)
def test_what_a_producer_writes_is_what_a_receiver_reads(store_url, drawn, mode):
    run = uuid.uuid4()  # the examples share a store
    of_sources = [changed(event, source=f"/{run}/{number % 2}") for number, event in enumerate(drawn)]
    written = {event.identity: event for event in of_sources}

    every, requests = asyncio.run(accept_and_send(store_url, written.values(), mode))

    for event, request in zip(every[-len(written) :], requests, strict=True):
        original = written.pop(event.identity)
        assert event == changed(original, time=original.time or event.time)
        found = from_http_event(HTTPMessage(dict(request.headers), request.body))
        assert without_time(found.get_attributes()) == without_time(attributes(event, mode))
        assert found.get_time() == datetime.fromisoformat(event.time)
        assert same_data(found.get_data(), event)
        # The first two dots of the signed text are those between its parts, so no other request has the same text.
        parts = [
            request.headers["webhook-id"].encode(),
            request.headers["webhook-timestamp"].encode(),
            request.body,
        ]
        assert b".".join(parts).split(b".", 2) == parts
        assert request.webhook_id == event.webhook_id
    assert not written
    assert len({event.webhook_id for event in every}) == len({event.identity for event in every})
