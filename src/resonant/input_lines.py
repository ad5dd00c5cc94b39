"""Parser for input lines: each is one event as JSON."""

from __future__ import annotations

import json
import math
import sys
from decimal import Decimal, InvalidOperation
from typing import Any

from resonant.errors import InvalidEvent
from resonant.events import DEFAULT_MAX_EVENT_BYTES, Event, json_kind

_INPUT_KEYS = frozenset({"id", "type", "source", "data", "time", "subject"})
# Keys of CloudEvents in JSON, with the only values that Resonant sends.
_IMPLIED = {"specversion": "1.0", "datacontenttype": "application/json"}


def parse_event(
    line: bytes | str, *, default_type: str | None = None, max_bytes: int = DEFAULT_MAX_EVENT_BYTES
) -> Event:
    """Read one input line: ``{"type": ..., "source": ..., "data": ...}`` with optional id, time, subject.

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
        raise InvalidEvent(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidEvent(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise InvalidEvent("not an event: nested too deeply") from None
    except ValueError:
        raise InvalidEvent(f"a number has more than {sys.get_int_max_str_digits():,} digits") from None
    return event_from_fields(fields, default_type=default_type, max_bytes=max_bytes)


def event_from_fields(
    fields: dict[str, Any],
    *,
    default_type: str | None = None,
    max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
) -> Event:
    """Build an event from a decoded input line; see ``parse_event``."""
    if not isinstance(fields, dict):
        raise InvalidEvent(f"must be a JSON object, not {json_kind(fields)}")
    for name in sorted(fields.keys() - _INPUT_KEYS, key=str):
        if name not in _IMPLIED:
            raise InvalidEvent(f"unknown key {name!r:.80}; known keys: {', '.join(sorted(_INPUT_KEYS))}")
        if fields[name] != _IMPLIED[name]:
            raise InvalidEvent(f"{name} must be {_IMPLIED[name]!r} if it is given")
    event_type = fields.get("type")
    if event_type is None:
        event_type = default_type
    if event_type is None:
        raise InvalidEvent("type is missing (and no --type was given)")
    for required in ("source", "data"):
        if required not in fields:
            raise InvalidEvent(f"{required} is missing")
    return Event(
        id=fields.get("id"),
        type=event_type,
        source=fields["source"],
        data=fields["data"],
        time=fields.get("time"),
        subject=fields.get("subject"),
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
    raise InvalidEvent(f"not JSON: {name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_refuse_constant)
