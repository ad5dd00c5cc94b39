"""Parser for input lines: each is one event as JSON."""

from __future__ import annotations

import json
import math
import sys
from decimal import Decimal, InvalidOperation
from typing import Any

from resonant.errors import InvalidEvent
from resonant.events import ABSENT, DEFAULT_MAX_EVENT_BYTES, RESERVED_NAMES, Event, decode_base64, json_kind

# The members of CloudEvents in JSON that are not extension attributes.
_MEMBERS = RESERVED_NAMES | {"data_base64"}


def parse_event(
    line: bytes | str, *, default_type: str | None = None, max_bytes: int = DEFAULT_MAX_EVENT_BYTES
) -> Event:
    """Read one input line: a CloudEvent in JSON, such as ``{"type": ..., "source": ..., "data": ...}``.

    ``id`` and ``specversion`` are optional. ``data`` or ``data_base64`` may be absent. All other members are attributes of
    CloudEvents or extension attributes; null means that there is no such attribute.

    Numbers keep their exact value, even if a float would round it. If an object has a duplicate key, the last value
    counts.

    Args:
        line: one JSON object; bytes are UTF-8, and a leading byte order mark is skipped.
        default_type: the type for a line without one.
        max_bytes: the largest body allowed, in bytes.

    Raises:
        InvalidEvent: the line is not a valid event; the message says why.
    """
    try:
        text = line.decode() if isinstance(line, bytes) else line
        fields = _DECODER.decode(text.removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"not UTF-8: {error.reason} at byte {error.start}", "not_json") from None
    except json.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON: {error.msg} at column {error.colno}", "not_json") from None
    except RecursionError:
        raise InvalidEvent("not an event: nested too deeply", "too_large") from None
    except ValueError:
        raise InvalidEvent(
            f"a number has more than {sys.get_int_max_str_digits():,} digits", "too_large"
        ) from None
    return event_from_fields(fields, default_type=default_type, max_bytes=max_bytes)


def event_from_fields(
    fields: dict[str, Any],
    *,
    default_type: str | None = None,
    max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
) -> Event:
    """Build an event from a decoded input line; see ``parse_event``."""
    if not isinstance(fields, dict):
        raise InvalidEvent(f"must be a JSON object, not {json_kind(fields)}", "wrong_type")
    if fields.get("specversion") not in (None, "1.0"):
        raise InvalidEvent("specversion must be '1.0' if it is given", member="specversion")
    event_type = fields.get("type")
    if event_type is None:
        event_type = default_type
    if event_type is None:
        raise InvalidEvent("type is missing (and no --type was given)", "missing", "type")
    if fields.get("source") is None:
        raise InvalidEvent("source is missing", "missing", "source")
    data = fields.get("data", ABSENT)
    if (encoded := fields.get("data_base64")) is not None:
        if data is not ABSENT:
            raise InvalidEvent("data and data_base64 cannot both be given", "both_data", "data_base64")
        data = decode_base64(encoded)
    others = fields.keys() - _MEMBERS
    return Event(
        id=fields.get("id"),
        type=event_type,
        source=fields["source"],
        data=data,
        time=fields.get("time"),
        subject=fields.get("subject"),
        datacontenttype=fields.get("datacontenttype"),
        dataschema=fields.get("dataschema"),
        extensions={name: value for name, value in fields.items() if name in others} if others else None,
        max_bytes=max_bytes,
    )


def _number(literal: str) -> float | Decimal:
    value = float(literal)
    if repr(value) == literal:
        return value
    if math.isinf(value):
        raise InvalidEvent(
            f"the number {literal:.40} is out of range: most receivers would read it as infinity"
        )
    try:
        exact = Decimal(literal)
    except InvalidOperation:
        raise InvalidEvent(f"the number {literal:.40} is out of range") from None
    return value if exact == Decimal(repr(value)) else exact


def _refuse_constant(name: str) -> Any:
    raise InvalidEvent(f"not JSON: {name} is not a JSON value", "not_json")


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_refuse_constant)
