"""JSON Schemas of what the HTTP interface takes and answers. They accept exactly the events that are accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from resonant.errors import InvalidEventCode
from resonant.events import OWN_SOURCE, Reason, Status
from resonant.events.attributes import (
    ABSOLUTE_URI,
    MAX_ATTRIBUTE_CHARACTERS,
    MAX_EXTENSION_CHARACTERS,
    MAX_EXTENSIONS,
    MEDIA_TYPE,
    NONCHARACTERS,
)

if TYPE_CHECKING:
    from resonant.intake.limits import Limits

_CODES = (*get_args(InvalidEventCode), "conflict", "forbidden", "unrouted")
# JSON Schema knows no \U, so these are written as characters.
_ALLOWED = rf"[^\u0000-\u001f\u007f-\u009f\ufdd0-\ufdef{NONCHARACTERS}]"
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
_TIME = {"type": "string", "format": "date-time"}
_NAME = "[A-Za-z0-9!#$%&'*+.^_`|~-]"
_JSON_TYPE = f"^{_NAME}+/({_NAME}*[+])?[Jj][Ss][Oo][Nn] *(;|$)"


def schemas(limits: Limits) -> dict[str, Any]:
    """Return the schemas by name."""
    event = {"$ref": "#/components/schemas/Event"}
    return {
        "Event": _event(),
        "Events": {"type": "array", "items": event, "maxItems": limits.batch_events},
        "Lines": {
            "type": "array",
            "items": event,
            "maxItems": limits.batch_events,
            "description": "One event in each line; empty lines are skipped.",
        },
        "Data": {
            "description": (
                "Binary mode: the body is the data of the event, `Content-Type` is its `datacontenttype`, and each attribute is a "
                "header `ce-NAME`. Extension attributes become strings."
            )
        },
        "Stored": _stored(),
        "Found": _found(),
        "Problem": _problem(),
        "Error": _error(),
    }


def _event() -> dict[str, Any]:
    text = _text(MAX_ATTRIBUTE_CHARACTERS)
    absent = {"type": "null"}
    return {
        "type": "object",
        "description": "A CloudEvent 1.0. A member that is null is absent.",
        "required": ["type", "source"],
        "properties": {
            "specversion": {"enum": ["1.0", None]},
            "id": _or_null(
                {"type": "string", "pattern": "^[!-~]{1,255}$"},
                "Identifies the event within its source; by default, a new one.",
            ),
            "type": text | {"description": "Such as `com.example.order.paid`."},
            "source": text
            | {"not": {"const": OWN_SOURCE}, "description": "A URI reference to the producer."},
            "time": _or_null(_TIME, "When the event happened, in RFC 3339; by default, now."),
            "subject": _or_null(text, "The subject of the event within the source."),
            "datacontenttype": _or_null(
                _pattern(MEDIA_TYPE), "The media type of `data`; `application/json` by default."
            ),
            "dataschema": _or_null(_pattern(ABSOLUTE_URI), "The absolute URI of a schema of `data`."),
            "data": {"description": "Any JSON value; with a media type that is not JSON, a string."},
            "data_base64": _or_null(
                {"type": "string", "pattern": _BASE64}, "The data as bytes, instead of `data`."
            ),
            "expirytime": _or_null(
                _TIME, "When deliveries of the event that are not done are given up, in RFC 3339."
            ),
            "traceparent": {"description": "The trace (W3C Trace Context); an invalid one is dropped."},
            "tracestate": {"description": "The state of this trace; an invalid one is dropped."},
        },
        "additionalProperties": {
            "description": (
                f"Up to {MAX_EXTENSIONS} extension attributes, whose names have 1 to 20 of a-z and 0-9: strings, booleans and "
                "integers of 32 bits."
            ),
            "anyOf": [
                _text(MAX_EXTENSION_CHARACTERS) | {"minLength": 0},
                {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
                {"type": ["boolean", "null"]},
            ],
        },
        "propertyNames": {"pattern": "^([a-z0-9]{1,20}|data_base64)$"},
        "anyOf": [
            {
                "title": "JSON",
                "properties": {
                    "datacontenttype": {"type": ["string", "null"], "pattern": _JSON_TYPE},
                    "data_base64": absent,
                },
            },
            {"title": "Text", "properties": {"data": {"type": "string"}, "data_base64": absent}},
            {"title": "Bytes", "required": ["data_base64"], "properties": {"data": False}},
        ],
    }


def _text(longest: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": longest, "pattern": f"^{_ALLOWED}*$"}


def _pattern(pattern: str) -> dict[str, Any]:
    return {"type": "string", "maxLength": MAX_ATTRIBUTE_CHARACTERS, "pattern": f"^{pattern}$"}


def _or_null(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return schema | {"type": [schema["type"], "null"], "description": description}


def _stored() -> dict[str, Any]:
    event = _closed(
        {
            "id": {"type": "string"},
            "source": {"type": "string"},
            "duplicate": {"type": "boolean", "description": "Whether the event was stored before."},
            "endpoints": {
                "type": "array",
                "items": {"type": "string"},
                "description": "The endpoints that receive it.",
            },
        }
    )
    document = _closed(
        {
            "events": {
                "type": "array",
                "items": event,
                "description": "The stored events, in the order of the request.",
            }
        }
    )
    errors = {"type": "array", "items": {"$ref": "#/components/schemas/Error"}}
    document["properties"]["errors"] = errors | {
        "description": "With `handling=lenient`, the events that are not stored."
    }
    return document


def _found() -> dict[str, Any]:
    texts = ("category", "code")
    delivery = _closed(
        {
            "endpoint": {"type": "string"},
            "status": {"enum": [*get_args(Status)]},
            "attempts": {"type": "integer"},
            "replays": {"type": "integer"},
            "reason": {
                "enum": [*get_args(Reason), None],
                "description": "Why a dead letter was given up.",
            },
            **{name: {"type": ["string", "null"]} for name in texts},
            "status_code": {"type": ["integer", "null"]},
            **{
                name: {"type": ["string", "null"], "format": "date-time"}
                for name in ("first_attempt_at", "next_attempt_at", "finished_at")
            },
        }
    )
    return _closed(
        {
            "id": {"type": "string"},
            "source": {"type": "string"},
            "type": {"type": "string"},
            "accepted_at": _TIME,
            "deliveries": {"type": "array", "items": delivery},
        }
    )


def _problem() -> dict[str, Any]:
    problem = _closed(
        {
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "One line: what is wrong, and what to do."},
        }
    )
    problem["properties"] |= {
        "limit": {"type": "integer", "description": "The limit that the request exceeds."},
        "errors": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Error"},
            "description": "The events that are refused; nothing is stored.",
        },
    }
    return problem | {"description": "Why a request is refused (RFC 9457)."}


def _error() -> dict[str, Any]:
    error = _closed(
        {
            "index": {"type": "integer", "description": "The position of the event in the request, from 0."},
            "pointer": {
                "type": "string",
                "description": "The JSON Pointer of the member; empty for the whole event.",
            },
            "code": {"enum": [*_CODES]},
            "detail": {"type": "string", "description": "The reason, as the command line says it."},
        }
    )
    return error | {"description": "Why one event is refused."}


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly these members."""
    return {"type": "object", "required": [*properties], "properties": properties}
