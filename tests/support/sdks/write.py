"""Reads events as JSON on standard input, and prints the requests that version 1 of the official Python SDK makes of each."""

import base64
import json
import sys

from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent


def write(given):
    data = base64.b64decode(given["base64"]) if "base64" in given else given.get("data")
    event = CloudEvent(given["attributes"], data)
    headers, body = to_binary(event, marshal) if given["mode"] == "binary" else to_structured(event)
    return {"headers": dict(headers), "body": base64.b64encode(body or b"").decode()}


def marshal(data):
    """By default, the SDK would write text as JSON."""
    return data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()


json.dump([write(given) for given in json.load(sys.stdin)], sys.stdout)
