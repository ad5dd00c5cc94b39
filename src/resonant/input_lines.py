"""Parser for input lines: each is one event as JSON."""

import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Any

from resonant.errors import InvalidEvent
from resonant.events import (
    ABSENT,
    DEFAULT_MAX_EVENT_BYTES,
    RESERVED_NAMES,
    Event,
    decode_base64,
    json_kind,
    refuse_own,
)

_FLOAT_CHARACTERS = 16  # 15 digits and a point
_ZERO = re.compile(r"-?0(\.0+)?([eE]|\Z)")
_SPACE = re.compile(r"[ \t\n\r]*")
# The members of CloudEvents in JSON that are not extension attributes.
_MEMBERS = RESERVED_NAMES | {"data_base64"}


def parse_event(
    line: bytes | str,
    *,
    default_type: str | None = None,
    max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
    may_be_own: bool = False,
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
        may_be_own: whether to accept the source and types of Resonant's own events, which producers cannot use.

    Raises:
        InvalidEvent: the line is not a valid event; the message says why.
    """
    fields = decode_json(line)
    return event_from_fields(fields, default_type=default_type, max_bytes=max_bytes, may_be_own=may_be_own)


def longest_line(max_bytes: int) -> int:
    """Return how many bytes a line may have: room for escapes in the body of the largest event, and for its attributes."""
    return 4 * max_bytes + 64 * 1024


def too_long(longest: int) -> InvalidEvent:
    """Return the error of a line that has more bytes than ``longest``."""
    return InvalidEvent(
        f"longer than {longest:,} bytes (RESONANT_MAX_EVENT_BYTES raises the limit)", "too_large"
    )


def decode_json(text: bytes | str) -> Any:
    """Decode one JSON value as ``parse_event`` does: numbers exactly, and no other values than those of JSON.

    Raises:
        InvalidEvent: the text is not JSON, or is nested too deeply; the message says why.
    """
    with _errors_in_our_words():
        return _DECODER.decode(_text(text))


def decode_array(text: bytes | str) -> Iterator[Any]:
    """Decode the values of a JSON array one by one, as ``decode_json`` does.

    Raises:
        InvalidEvent: the text is not a JSON array, or is nested too deeply; the message says why.
    """
    with _errors_in_our_words():
        array = _text(text)
        at = _skip_space(array, 0)
        if not array.startswith("[", at):
            raise InvalidEvent(f"must be a JSON array, not {json_kind(_DECODER.decode(array))}", "wrong_type")
        at, end = _skip_space(array, at + 1), len(array)
        is_first = True
        while not (is_first and array.startswith("]", at)):
            value, at = _DECODER.raw_decode(array, at)
            yield value
            is_first, at = False, _skip_space(array, at)
            if not array.startswith(",", at):
                break
            at = _skip_space(array, at + 1)
        if not array.startswith("]", at):
            raise json.JSONDecodeError("Expecting ',' delimiter", array, at)
        if (at := _skip_space(array, at + 1)) != end:
            raise json.JSONDecodeError("Extra data", array, at)


def event_from_fields(
    fields: dict[str, Any],
    *,
    default_type: str | None = None,
    max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
    may_be_own: bool = False,
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
        raise InvalidEvent("type is missing", "missing", "type")
    if fields.get("source") is None:
        raise InvalidEvent("source is missing", "missing", "source")
    if not may_be_own:
        refuse_own(event_type, fields["source"])
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


def _text(given: bytes | str) -> str:
    return (given.decode() if isinstance(given, bytes) else given).removeprefix("\ufeff")


@contextmanager
def _errors_in_our_words() -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"not UTF-8: {error.reason} at byte {error.start}", "not_json") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise InvalidEvent(f"not JSON: {error.msg} at {line}column {error.colno}", "not_json") from None
    except RecursionError:
        raise InvalidEvent("not an event: nested too deeply", "too_large") from None
    except ValueError:
        raise InvalidEvent(
            f"a number has more than {sys.get_int_max_str_digits():,} digits", "too_large"
        ) from None


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _number(literal: str) -> float | Decimal:
    value = float(literal)
    # A float is exact to 15 digits, unless it is close to zero; most numbers are shorter.
    is_short = len(literal) <= _FLOAT_CHARACTERS
    if is_short and (sys.float_info.min <= abs(value) < math.inf or _ZERO.match(literal)):
        return value
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
