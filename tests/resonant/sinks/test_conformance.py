"""The events of the CloudEvents conformance tests (github.com/cloudevents/conformance), from the input line to the request.

They are those of ``features/http-protocol-binding.feature``, ``yaml/v1.yaml`` and ``yaml/v1.0/v1_minimum.yaml``. Two extension
attributes of ``v1.yaml`` end with a line break, which CloudEvents 1.0 forbids; they are sent without it.
"""

import json
import urllib.parse

import pytest

from resonant.input_lines import parse_event
from resonant.testing import respond
from support.http_sinks import deliver

SOMETHING = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "time": "2018-04-05T03:56:24Z",
    "id": "1234-1234-1234",
    "source": "/mycontext/subcontext",
}
EXTENSIONS = {"comexampleextension1": "value", "comexampleextension2": '{"othervalue": 5}'}
MINIMUM = {
    "specversion": "1.0",
    "type": "io.cloudevents.minimum",
    "source": "//github.com/cloudevents/cloudeventsconformance/yaml/v1.yaml",
}
JSON, IN_UTF8 = "application/json", "application/json; charset=utf-8"
DATA = [
    ("text/plain; charset=us-ascii", "Hello, World!\n"),
    ("text/plain; charset=utf-8", "Hello, 🌎!\n"),
    (IN_UTF8, "Hello, 🌎!"),
    (IN_UTF8, {"msg": "Hello, 🌎!"}),
    (IN_UTF8, ["Hello", "🌎!"]),
    ("application/xml; charset=utf-8", "<msg>Hello, 🌎!</msg>\n"),
]
EVENTS = [
    SOMETHING | {"datacontenttype": kind, "data": {"message": "Hello World!"}} for kind in (JSON, IN_UTF8)
]
EVENTS += [
    SOMETHING | EXTENSIONS | {"id": "4321-4321-4321", "datacontenttype": JSON, "data": {"world": "hello"}}
]
EVENTS += [
    MINIMUM | {"id": f"conformance-{number:04}", "datacontenttype": kind, "data": data}
    for number, (kind, data) in enumerate(DATA, start=1)
]


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("members", EVENTS)
async def test_the_request_has_the_attributes_and_data_of_the_event(members, mode):
    _, receiver = await deliver(respond(200), parse_event(json.dumps(members)), mode=mode)
    [request] = receiver.journal
    kind = request.headers["content-type"]
    if mode == "structured":
        assert kind == "application/cloudevents+json; charset=utf-8"
        assert json.loads(request.body) == members
        return
    found = {
        name.removeprefix("ce-"): urllib.parse.unquote(value, errors="strict")
        for name, value in request.headers.items()
        if name.startswith("ce-")
    }
    data = json.loads(request.body) if kind in (JSON, IN_UTF8) else request.body.decode()
    assert found | {"datacontenttype": kind, "data": data} == members
