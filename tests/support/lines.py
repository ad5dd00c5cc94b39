"""Input lines that tests parse."""

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


def body(data):
    return parse_event(line(data)).body.decode()


def refusal(text, **options):
    with pytest.raises(InvalidEvent) as refused:
        parse_event(text, **options)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 600
    return message
