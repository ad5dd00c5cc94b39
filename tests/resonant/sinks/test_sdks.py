"""Receivers read every kind of event with the libraries for CloudEvents, and verify it with those for Standard Webhooks."""

import asyncio
import base64
import json
import urllib.parse
from datetime import datetime

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from resonant.sinks.http import HttpSink
from resonant.testing import Receiver, respond
from support.http_sinks import SECRET, deliver, endpoint
from support.sdks import read_in_javascript, read_in_old_python
from support.wire_examples import (
    EXAMPLES,
    EXTENSIONS,
    attributes,
    events,
    is_structured,
    same_data,
    without_time,
)

MODES = ("binary", "structured")
ALL = [(name, mode) for name in EXAMPLES for mode in MODES]
every_event = pytest.mark.parametrize(("name", "mode"), ALL, ids=[*map(", ".join, ALL)])


async def send_all():
    found = []
    async with Receiver(respond(200)) as receiver:
        for mode in MODES:
            async with HttpSink(endpoint(receiver.url, mode=mode, signing_secrets=(SECRET,))) as sink:
                for name, event in EXAMPLES.items():
                    await sink.send(event)
                    found.append((name, mode))
    return dict(zip(found, receiver.journal, strict=True))


@pytest.fixture(scope="module")
def received():
    """The request of each example in each mode, as a receiver got it."""
    return asyncio.run(send_all())


@pytest.fixture(scope="module")
def in_javascript(received):
    return dict(zip(received, read_in_javascript(received.values(), secret=SECRET), strict=True))


@pytest.fixture(scope="module")
def in_old_python(received):
    names = {*EXTENSIONS, "traceparent", "tracestate"}
    return dict(zip(received, read_in_old_python(received.values(), extensions=names), strict=True))


def decoded(found, name, mode):
    """Return attributes; those from headers are decoded here, since some libraries do not."""
    if is_structured(EXAMPLES[name], mode):
        return found
    return {key: urllib.parse.unquote(value) for key, value in found.items()}


def plain(found):
    """Return data that a library in another process has read."""
    return base64.b64decode(found["base64"]) if "base64" in found else found.get("value")


# --- CloudEvents ----------------------------------------------------------------------------------------------------


def read_with_sdk(request):
    event = from_http_event(HTTPMessage(dict(request.headers), request.body))
    return event.get_attributes(), event.get_data()


def assert_is_read_as_sent(request, event, mode):
    found, content = read_with_sdk(request)
    assert without_time(found) == without_time(attributes(event, mode))
    if event.time is not None:
        assert found["time"] == datetime.fromisoformat(event.time)
    assert same_data(content, event)


@every_event
def test_the_official_python_sdk_reads_the_event(received, name, mode):
    assert_is_read_as_sent(received[name, mode], EXAMPLES[name], mode)


@given(events(), st.sampled_from(MODES))
def test_the_official_python_sdk_reads_any_event_as_it_was_sent(event, mode):
    _, receiver = asyncio.run(deliver(respond(200), event, mode=mode))
    assert_is_read_as_sent(receiver.journal[0], event, mode)


@pytest.mark.program
@every_event
def test_version_1_of_the_official_python_sdk_reads_the_event(in_old_python, name, mode):
    found = in_old_python[name, mode]["event"]
    assert decoded(without_time(found["attributes"]), name, mode) == without_time(
        attributes(EXAMPLES[name], mode)
    )
    assert same_data(plain(found["data"]), EXAMPLES[name])


# It needs a content type in binary mode, and takes an empty member `data_base64` for an extension.
NOT_BY_PYDANTIC = {("binary without a type", "binary"), ("absent", "binary"), ("empty binary", "structured")}


@pytest.mark.program
@every_event
def test_cloudevents_pydantic_reads_the_event(in_old_python, received, name, mode):
    found = in_old_python[name, mode]["pydantic"]
    event = EXAMPLES[name]
    if "error" in found:
        assert (name, mode) in NOT_BY_PYDANTIC
        return
    assert without_time(found["attributes"]) == without_time(attributes(event, mode))
    content = plain(found["data"])
    if event.form == "json" and not is_structured(event, mode):
        content = json.loads(content)  # it leaves the parsing to the receiver
    assert same_data(content, event)


@pytest.mark.program
@every_event
def test_the_official_javascript_sdk_reads_the_event(in_javascript, name, mode):
    found = in_javascript[name, mode]["event"]
    event = EXAMPLES[name]
    assert decoded(without_time(found["attributes"]), name, mode) == without_time(attributes(event, mode))
    if event.time is not None:
        assert found["attributes"]["time"] == event.time
    content = plain(found["data"])
    if event.form == "json" and isinstance(content, str) and (event.datacontenttype or name == "JSON null"):
        content = json.loads(
            content
        )  # it parses application/json only, and of that only objects, lists and strings
    assert same_data(content, event)


# --- Standard Webhooks ----------------------------------------------------------------------------------------------

# Both official libraries decode the body as UTF-8 before they verify it, so they cannot verify other bytes.
NOT_UTF8 = {("binary", "binary"), ("binary without a type", "binary")}


@every_event
def test_the_official_python_library_verifies_the_signature(received, name, mode):
    request = received[name, mode]

    def verify(body):
        Webhook(SECRET).verify(body, dict(request.headers), json_parse=False)

    if (name, mode) in NOT_UTF8:
        with pytest.raises(UnicodeDecodeError):
            verify(request.body)
        return
    verify(request.body)
    with pytest.raises(WebhookVerificationError):
        verify(request.body + b" ")


@pytest.mark.program
@every_event
def test_the_official_javascript_library_verifies_the_signature(in_javascript, name, mode):
    expected = {"error": "No matching signature found"} if (name, mode) in NOT_UTF8 else True
    assert in_javascript[name, mode]["verified"] == expected
