"""What schemathesis cannot know of ``POST /events`` from its OpenAPI document. ``SCHEMATHESIS_HOOKS`` names this module."""

import json
from urllib.parse import quote

import schemathesis
from schemathesis import GenerationMode

SINGLE = "application/cloudevents+json"
SEVERAL = ("application/cloudevents-batch+json", "application/jsonl")


@schemathesis.serializer("application/jsonl")
def in_lines(_context, value):
    return b"\n".join(json.dumps(each).encode() for each in (value if isinstance(value, list) else [value]))


@schemathesis.hook
def before_load_schema(_context, document):
    """Name types for binary mode: schemathesis might choose application/jsonl, with data that is no line."""
    content = document["paths"]["/events"]["post"]["requestBody"]["content"]
    content["application/json"] = content.pop("*/*")
    content["text/plain"] = {"schema": {"type": "string"}}


def without_integral_fractions(event):
    """Make 7.0 an integer: to JSON Schema it is one, but not to CloudEvents."""
    for name, value in event.items() if isinstance(event, dict) else ():
        if isinstance(value, float) and value.is_integer():
            event[name] = int(value)


@schemathesis.hook
def before_call(_context, case, _options):
    """Make a request valid that the document describes as valid: OpenAPI has no words for these conditions."""
    is_valid = case.meta is None or case.meta.generation.mode is GenerationMode.POSITIVE
    if case.operation.label != "POST /events" or not is_valid:
        return
    if "endpoint" in (case.query or {}):
        case.query["endpoint"] = "orders"  # which the store knows
    for event in case.body if isinstance(case.body, list) else [case.body]:
        without_integral_fractions(event)
    if case.media_type != SINGLE:
        subject = case.headers.get("ce-subject", "")
        for name in [name for name in case.headers if name.lower().startswith("ce-")]:
            del case.headers[name]
        if case.media_type in SEVERAL:
            case.headers.pop("Idempotency-Key", None)
        else:
            case.headers.update({"ce-type": "com.example.paid", "ce-source": "/shop"})
            if subject and subject.isprintable():
                case.headers["ce-subject"] = quote(subject[:50])
