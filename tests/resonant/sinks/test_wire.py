"""Events on the wire, in both modes: headers and body as a receiver gets them."""

import base64
import json
import re
import urllib.parse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resonant.events import Event
from resonant.events.webhook_ids import webhook_id
from resonant.sinks.base import TraceHeaders, attempt_trace
from resonant.sinks.wire import message
from resonant.testing import respond
from support.events import changed
from support.http_sinks import EVENT, deliver
from support.wire_examples import EXAMPLES, EXTENSIONS, TRACEPARENT, events

STRUCTURED = "application/cloudevents+json; charset=utf-8"


async def sent(event, mode="binary", **options):
    """Deliver an event, and return the request that was received."""
    _, receiver = await deliver(respond(200), event, mode=mode, **options)
    return receiver.journal[0]


# --- binary mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("JSON", "application/json"),
        ("JSON null", "application/json"),
        ("a JSON type of its own", "application/vnd.shop+json"),
        ("text", "text/plain; charset=utf-8"),
        ("binary", "image/png"),
        ("binary without a type", None),
        ("absent", None),
    ],
)
async def test_in_binary_mode_the_body_is_the_data_and_content_type_its_type(name, content_type):
    received = await sent(EXAMPLES[name])
    assert received.body == EXAMPLES[name].body
    assert received.headers.get("content-type") == content_type


async def test_in_binary_mode_every_attribute_has_a_header():
    headers = (await sent(EXAMPLES["every attribute"])).headers
    assert {name: value for name, value in headers.items() if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": "every-attribute",
        "ce-type": "com.example.bestellung%20gr%C3%B6%C3%9Fer",
        "ce-source": "/shop/a%2520b?c=d",
        "ce-time": "2026-01-31T12:00:00.123Z",
        "ce-subject": "order%2042%20%22%C3%84%22",
        "ce-dataschema": "https://example.com/order.json#v1",
        "ce-comment": "Euro%20%E2%82%AC%20%F0%9F%98%80,%20100%20%25%20%22quoted%22",
        "ce-empty": "",
        "ce-expirytime": "2099-01-31T12:00:00Z",
        "ce-largest": "2147483647",
        "ce-no": "false",
        "ce-partitionkey": "shop-7",
        "ce-smallest": "-2147483648",
        "ce-yes": "true",
        "ce-zero": "0",
        "ce-traceparent": TRACEPARENT,
        "ce-tracestate": "shop=a%20b,other=1",
    }


# Every character of the Basic Multilingual Plane that could end a header, and other hostile ones.
HOSTILE = '\r\n\x00\x0b\x0c\x1c\x85\u2028\u2029: ;,"%\\\x7f€😀'


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(HOSTILE), max_size=50))
@example(HOSTILE)
def test_no_attribute_can_inject_a_header(value):
    """Not even a stored one that validation would refuse."""
    parts = {"type": value, "source": value, "time": value, "subject": value, "dataschema": value}
    headers, _ = message(
        changed(EVENT, **parts, extensions_json=json.dumps({"extension": value}), traceparent=value), "binary"
    )
    for name, encoded in headers:
        assert re.fullmatch(rb"[a-z0-9-]+", name)
        assert re.fullmatch(rb"[!#-~]*", encoded)
        if name in {b"ce-subject", b"ce-extension", b"ce-traceparent"}:
            assert urllib.parse.unquote(encoded.decode(), errors="strict") == value


async def test_an_id_with_spaces_or_other_letters_is_percent_encoded_and_its_webhook_id_a_hash():
    event = EXAMPLES["an id of any text"]
    headers = (await sent(event)).headers
    assert headers["ce-id"] == "Bestellung%2042%20%22gr%C3%B6%C3%9Fer%22,%20100%20%25"
    assert headers["webhook-id"] == webhook_id(event.identity, is_taken=False)
    members = json.loads((await sent(event, "structured")).body)
    assert members["id"] == event.id


# --- structured mode ------------------------------------------------------------------------------------------------


async def test_in_structured_mode_the_body_is_the_whole_event():
    event = EXAMPLES["every attribute"]
    received = await sent(event, "structured")
    assert received.headers["content-type"] == STRUCTURED
    assert not [name for name in received.headers if name.startswith("ce-")]
    assert json.loads(received.body) == {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": event.time,
        "subject": event.subject,
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        **EXTENSIONS,
        "traceparent": TRACEPARENT,
        "tracestate": "shop=a b,other=1",
        "data": [1, 2.5, None, {"a": "b"}],
    }
    assert event.body in received.body


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("JSON null", {"data": None}),
        ("a JSON string", {"data": "a text"}),
        ("text", {"data": "Grüße, 1 €\r\n\t😀"}),
        ("empty text", {"data": ""}),
        ("binary", {"data_base64": base64.b64encode(bytes(range(256))).decode()}),
        ("empty binary", {"data_base64": ""}),
        ("absent", {}),
    ],
)
async def test_in_structured_mode_the_data_has_the_member_of_its_form(name, data):
    members = json.loads((await sent(EXAMPLES[name], "structured")).body)
    assert {
        key: value for key, value in members.items() if key.startswith("data") and key != "datacontenttype"
    } == data


@given(events(), st.sampled_from(["binary", "structured"]))
def test_every_attempt_has_the_same_headers_and_bytes(event, mode):
    stored = changed(event)
    assert message(event, mode) == message(stored, mode)


async def test_data_that_is_a_cloudevent_is_always_sent_in_structured_mode():
    """In binary mode, the receiver would read its source and type instead of the event's."""
    received = await sent(EXAMPLES["a CloudEvent as data"], "binary")
    assert received.headers["content-type"] == STRUCTURED
    members = json.loads(received.body)
    assert (members["source"], members["data"]["source"]) == ("/shop", "/bank")
    assert members["datacontenttype"] == "application/CloudEvents+JSON"


# --- traces ---------------------------------------------------------------------------------------------------------

OWN = TraceHeaders("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None)


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_without_a_span_the_trace_of_the_event_is_sent_on(mode):
    headers = (await sent(EXAMPLES["every attribute"], mode)).headers
    assert (headers["traceparent"], headers["tracestate"]) == (TRACEPARENT, "shop=a b,other=1")


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_the_span_of_an_attempt_replaces_the_trace_of_the_event_only_in_the_headers(mode):
    token = attempt_trace.set(OWN)
    try:
        received = await sent(EXAMPLES["every attribute"], mode)
    finally:
        attempt_trace.reset(token)
    assert received.headers["traceparent"] == OWN.traceparent
    assert "tracestate" not in received.headers
    stored = (
        json.loads(received.body)["traceparent"]
        if mode == "structured"
        else received.headers["ce-traceparent"]
    )
    assert stored == TRACEPARENT


def test_the_largest_attributes_fit_into_a_header_of_64_kib():
    longest = "\U0001f600" * 255
    event = Event(
        type=longest,
        source=longest,
        subject=longest,
        data=1,
        extensions={f"e{number}": "€" * 340 for number in range(7)},
    )
    headers, _ = message(event, "binary")
    assert 24_000 < sum(len(name) + len(value) + 4 for name, value in headers) < 64 * 1024
