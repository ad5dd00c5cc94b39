"""Producers send events with the official SDKs of CloudEvents, in every mode."""

import asyncio
import base64
from dataclasses import dataclass

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from resonant.events import Event
from resonant.store import WorkerStore
from support import patient
from support.posting import BATCH
from support.sdks import send_in_javascript, write_in_old_python
from support.serving import Serving, add_endpoints, serving
from support.wire_examples import TRACEPARENT, attributes, data, without_time

MODES = ("binary", "structured", "batch")


def make(**parts):
    return Event(**{"type": "com.example.order.paid", "source": "/shop"} | parts)


EVENTS = {
    "json": make(
        data={"order": 42, "name": "Grüße €", "lines": [1, 2.5, None, True]},
        subject="order 42",
        dataschema="https://example.com/order.json",
        datacontenttype="application/json; charset=utf-8",
        extensions={"partitionkey": "shop-7", "traceparent": TRACEPARENT},
    ),
    "text": make(data="Grüße, 1 €", datacontenttype="text/plain; charset=utf-8"),
    "bytes": make(data=bytes(range(256)), datacontenttype="image/png"),
}


@dataclass
class Shop:
    """A running server, and the events that are sent to it in all modes."""

    server: Serving

    @property
    def url(self):
        return f"{self.server.url}/events?endpoint=orders"

    def events(self, library):
        """Return what a library is given for each event and mode; the ids tell them apart."""
        return [
            {
                "mode": mode,
                "attributes": given_attributes(event, f"{library}-{mode}-{name}"),
                **given_data(event),
            }
            for mode in MODES
            for name, event in EVENTS.items()
        ]

    def send(self, mode, headers, body):
        """Send what a library has written; no library writes batches."""
        if mode == "batch":
            headers, body = {"content-type": BATCH}, b"[%s]" % body
        answer = patient.post(self.url, content=body, headers=headers)
        assert answer.status_code == 202, answer.text

    def stored(self):
        """Return the events that were not returned before, by id."""

        async def claim():
            store = await WorkerStore.open(self.server.store_url)
            try:
                return await store.claim("orders", owner="test", limit=1_000)
            finally:
                await store.close()

        return {lease.event.id: lease.event for lease in asyncio.run(claim())}


def given_attributes(event, event_id):
    return attributes(event, "structured") | {"id": event_id}


def given_data(event):
    return (
        {"base64": base64.b64encode(event.body).decode()} if event.form == "bytes" else {"data": data(event)}
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    url = f"sqlite:///{folder / 'store.db'}"
    add_endpoints(url, "orders")
    with serving(url, folder, "--no-auth") as server:
        yield Shop(server)


def check(shop, library):
    stored = shop.stored()
    assert len(stored) == len(MODES) * len(EVENTS)
    for mode in MODES:
        for name, event in EVENTS.items():
            found = stored[f"{library}-{mode}-{name}"]
            expected = attributes(event, "structured") | {"id": found.id}
            assert without_time(attributes(found, "structured")) == without_time(expected)
            assert (found.form, found.body) == (event.form, event.body)


def test_the_official_python_sdk_sends_events(shop):
    for given in shop.events("python"):
        content = base64.b64decode(given["base64"]) if "base64" in given else given["data"]
        event = CloudEvent(given["attributes"], content)
        message = (to_binary_event if given["mode"] == "binary" else to_structured_event)(event)
        shop.send(given["mode"], message.headers, message.body)
    check(shop, "python")


@pytest.mark.program
def test_version_1_of_the_official_python_sdk_sends_events(shop):
    events = shop.events("old")
    for given, (headers, body) in zip(events, write_in_old_python(events), strict=True):
        shop.send(given["mode"], headers, body)
    check(shop, "old")


@pytest.mark.program
def test_the_official_javascript_sdk_sends_events(shop):
    events = shop.events("javascript")
    answers = send_in_javascript(shop.url, events)
    assert [answer["events"][0]["id"] for answer in answers] == [
        given["attributes"]["id"] for given in events
    ]
    check(shop, "javascript")
