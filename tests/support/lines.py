"""Input lines that tests parse."""

import base64
import json

import pytest
from hypothesis import settings

from resonant.errors import InvalidEvent
from resonant.input_lines import parse_event

unhurried = settings(deadline=None)


def line(data="1", **attributes):
    """Return a valid input line with this JSON text as data; attributes override the defaults, and None removes one."""
    given = {"type": "com.example.paid", "source": "/shop", **attributes}
    members = [
        f"{json.dumps(name)}: {json.dumps(value)}" for name, value in given.items() if value is not None
    ]
    return "{" + ", ".join([*members, f'"data": {data}']) + "}"


def as_line(event):
    """Return an input line for the event, as another program would write it."""
    names = (
        "id",
        "type",
        "source",
        "time",
        "subject",
        "datacontenttype",
        "dataschema",
        "traceparent",
        "tracestate",
    )
    fields = {name: value for name in names if (value := getattr(event, name)) is not None} | event.extensions
    if event.form == "bytes":
        fields["data_base64"] = base64.b64encode(event.body).decode()
    if event.form == "text":
        fields["data"] = event.body.decode()
    text = json.dumps(fields)
    # Not decoded, since Python would round a number.
    return f'{text[:-1]}, "data": {event.body.decode()}}}' if event.form == "json" else text


def body(data):
    return parse_event(line(data)).body.decode()


def refusal(text, **options):
    with pytest.raises(InvalidEvent) as refused:
        parse_event(text, **options)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def parsed(text, **options):
    """Return the event of a line; or the message, the code and the pointer of its refusal."""
    try:
        return parse_event(text, **options)
    except InvalidEvent as error:
        return str(error), error.code, error.pointer
