"""The data of an event: JSON, text, bytes, or absent."""

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal

from resonant.errors import InvalidEvent

Form = Literal["json", "text", "bytes", "absent"]


class _Absent(Enum):
    ABSENT = "absent"


ABSENT: Final = _Absent.ABSENT


def encode(data: Any, datacontenttype: str | None) -> tuple[Form, bytes]:
    """Return the form of ``data``, and the bytes to send.

    Args:
        data: any JSON value, or a string if ``datacontenttype`` is not JSON, or bytes, or ``ABSENT``.
        datacontenttype: a valid media type.

    Raises:
        InvalidEvent: the data does not fit its type.
    """
    if data is ABSENT:
        return "absent", b""
    if isinstance(data, bytes):
        return "bytes", data
    if datacontenttype is None or is_json(datacontenttype):
        return "json", encode_data(data)
    if not isinstance(data, str):
        raise InvalidEvent(
            f"data must be a string, not {json_kind(data)}, as datacontenttype is {datacontenttype}"
        )
    try:
        return "text", data.encode()
    except UnicodeEncodeError:
        raise InvalidEvent("data contains a lone surrogate, which is not valid UTF-8") from None


def is_json(datacontenttype: str) -> bool:
    """Whether data of this media type is JSON: ``*/json`` or ``*/*+json``, with or without parameters."""
    media_type = datacontenttype.partition(";")[0].strip().lower()
    return media_type.endswith(("/json", "+json"))


def encode_data(data: Any) -> bytes:
    """Serialise a JSON value as compact UTF-8 JSON, keys in the given order.

    Args:
        data: any JSON value; a ``Decimal`` is written with all its digits.

    Raises:
        InvalidEvent: ``data`` is not valid JSON: NaN, lone surrogates, other objects, or nested too deeply.
    """
    try:
        return _encode(data).encode()
    except UnicodeEncodeError:
        raise InvalidEvent("data contains a lone surrogate, which is not valid UTF-8") from None
    except RecursionError:
        raise InvalidEvent("data is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise InvalidEvent(f"data is not a JSON value: {error}") from None


def _encode(data: Any) -> str:
    try:
        return _ENCODER.encode(data)
    except TypeError:
        return _encode_exactly(data)


def _encode_exactly(data: Any) -> str:
    # The json module cannot write a Decimal, even with a hook.
    if isinstance(data, Decimal) and data.is_finite():
        return str(data)
    if isinstance(data, dict):
        members = (_ENCODER.encode({key: 0})[1:-2] + _encode_exactly(value) for key, value in data.items())
        return f"{{{','.join(members)}}}"
    if isinstance(data, list | tuple):
        return f"[{','.join(map(_encode_exactly, data))}]"
    return _ENCODER.encode(data)


def json_kind(value: Any) -> str:
    """Return the kind of a JSON value for error messages."""
    if value is None:
        return "null"
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        Decimal: "a number",
        str: "a string",
        list: "an array",
    }
    return kinds.get(type(value), "an object")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
