"""Reads requests as JSON on standard input, and prints what cloudevents 1 and cloudevents-pydantic make of each."""

import base64
import json
import sys
from typing import Any

from cloudevents.http import from_http
from cloudevents_pydantic.bindings.http import HTTPHandler
from cloudevents_pydantic.events import CloudEvent
from pydantic import create_model


def read(request):
    headers, body = request["headers"], base64.b64decode(request["body"])
    return {"event": attempt(old_sdk, headers, body), "pydantic": attempt(pydantic, headers, body)}


def old_sdk(headers, body):
    event = from_http(headers, body)
    return {"attributes": dict(event.get_attributes()), "data": encoded(event.get_data())}


def pydantic(headers, body):
    """An event class declares its extensions, with their types; another one is refused."""
    extensions = dict.fromkeys(json.loads(sys.argv[1]), (Any, None))
    handler = HTTPHandler(create_model("Event", __base__=CloudEvent, **extensions))
    if headers.get("content-type", "").startswith("application/cloudevents+json"):
        event = handler.from_json(body.decode())
    else:
        event = handler.from_binary(headers, body)
    attributes = event.model_dump(exclude={"data"}, exclude_none=True)
    return {"attributes": attributes, "data": encoded(event.data)}


def encoded(data):
    return {"base64": base64.b64encode(data).decode()} if isinstance(data, bytes) else {"value": data}


def attempt(function, headers, body):
    try:
        return function(headers, body)
    except Exception as error:  # noqa: BLE001 - the tests judge it
        return {"error": str(error)}


json.dump([read(request) for request in json.load(sys.stdin)], sys.stdout)
