"""The cases of the CloudEvents conformance tests (github.com/cloudevents/conformance), from the input line to the request.

``features/http-protocol-binding.feature`` gives requests and the attributes that a receiver must find in them; ``yaml/v1.yaml``
and ``yaml/v1.0/v1_minimum.yaml`` give events. Here, each event is sent, and the request must have its attributes and data. Two
extension attributes of ``v1.yaml`` end with a line break, which CloudEvents 1.0 forbids; they are sent without it.
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
EXTENDED = SOMETHING | {
    "id": "4321-4321-4321",
    "comexampleextension1": "value",
    "comexampleextension2": '{"othervalue": 5}',
}
HELLO = {"message": "Hello World!"}
CASES = {
    "feature": SOMETHING | {"datacontenttype": "application/json", "data": HELLO},
    "feature, with a charset": SOMETHING
    | {"datacontenttype": "application/json; charset=utf-8", "data": HELLO},
    "v1": EXTENDED | {"data": {"world": "hello"}},
}
MINIMUM = {
    "specversion": "1.0",
    "type": "io.cloudevents.minimum",
    "source": "//github.com/cloudevents/cloudeventsconformance/yaml/v1.yaml",
}
for number, (datacontenttype, data) in enumerate(
    [
        ("text/plain; charset=us-ascii", "Hello, World!\n"),
        ("text/plain; charset=utf-8", "Hello, 🌎!\n"),
        ("application/json; charset=utf-8", "Hello, 🌎!"),
        ("application/json; charset=utf-8", {"msg": "Hello, 🌎!"}),
        ("application/json; charset=utf-8", ["Hello", "🌎!"]),
        ("application/xml; charset=utf-8", "<msg>Hello, 🌎!</msg>\n"),
    ],
    start=1,
):
    name = f"conformance-{number:04}"
    CASES[name] = MINIMUM | {"id": name, "datacontenttype": datacontenttype, "data": data}


def read(request):
    """Return the members of the CloudEvent in a request, as the HTTP binding and the JSON format say."""
    content_type = request.headers["content-type"]
    if content_type.startswith("application/cloudevents+json"):
        members = json.loads(request.body)
    else:
        members = {
            header.removeprefix("ce-"): urllib.parse.unquote(value, errors="strict")
            for header, value in request.headers.items()
            if header.startswith("ce-")
        }
        is_json = "/json" in content_type
        members |= {
            "datacontenttype": content_type,
            "data": json.loads(request.body) if is_json else request.body.decode(),
        }
    return members


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_request_has_the_attributes_and_data_of_the_event(case, mode):
    event = parse_event(json.dumps(case))
    _, receiver = await deliver(respond(200), event, mode=mode)
    assert read(receiver.journal[0]) == {"datacontenttype": "application/json"} | case


@pytest.mark.parametrize("name", ["feature", "conformance-0002"])
async def test_the_mode_decides_the_content_type(name):
    event = parse_event(json.dumps(CASES[name]))
    for mode, content_type in (
        ("binary", CASES[name]["datacontenttype"]),
        ("structured", "application/cloudevents+json; charset=utf-8"),
    ):
        _, receiver = await deliver(respond(200), event, mode=mode)
        assert receiver.journal[0].headers["content-type"] == content_type
