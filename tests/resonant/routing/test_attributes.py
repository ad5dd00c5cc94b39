"""Filters see the attributes that a receiver gets."""

from urllib.parse import unquote

import pytest
from hypothesis import given

from resonant.events import ABSENT, Event
from resonant.routing.attributes import attributes_of
from resonant.sinks.wire import message
from support import routing as generated


def received(event):
    headers, _ = message(event, "binary")
    given = {name.decode(): unquote(value.decode()) for name, value in headers}
    found = {name[3:]: value for name, value in given.items() if name.startswith("ce-")}
    return found | ({"datacontenttype": given["content-type"]} if "content-type" in given else {})


@given(generated.events)
def test_filters_see_the_attributes_of_the_headers(event):
    assert attributes_of(event) == received(event)


@pytest.mark.parametrize(
    "fields",
    [
        {"data": ABSENT},
        {"data": b"\0"},
        {"data": "a", "datacontenttype": "text/plain"},
        {"data": 1, "datacontenttype": "application/vnd.order+json", "dataschema": "urn:order"},
        {"data": 1, "time": "2026-01-31T12:00:00Z", "extensions": {"n": -1, "vip": False, "empty": ""}},
        {"data": 1, "extensions": {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=1"}},
    ],
)
def test_filters_see_every_attribute_with_each_kind_of_data(fields):
    event = Event(type="t", source="/ü", **fields)
    assert attributes_of(event) == received(event)
