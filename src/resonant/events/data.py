"""The data of an event: JSON, text, bytes, or absent."""

import base64
import json
import re
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal

from resonant.errors import InvalidEvent

_CHARSET = re.compile(r';\s*charset="?(?P<charset>[^";\s]*)', re.IGNORECASE)
# The data of a stored event may be gone: removed by the retention of bodies, or erased with the whole event.
Form = Literal["json", "text", "bytes", "absent", "removed", "erased"]


class _Absent(Enum):
    ABSENT = "absent"


ABSENT: Final = _Absent.ABSENT


class JsonBytes(bytes):
    """Data that is valid JSON in UTF-8, and is sent as it is."""


def encode(data: Any, datacontenttype: str | None) -> tuple[Form, bytes]:
    """Return the form of ``data``, and the bytes to send.

    Args:
        data: any JSON value, or a string if ``datacontenttype`` is not JSON, or bytes, or ``ABSENT``.
        datacontenttype: a valid media type.

    Raises:
        InvalidEvent: the data does not fit its type.
    """
    form: Form
    if data is ABSENT:
        return "absent", b""
    if isinstance(data, JsonBytes):
        return "json", bytes(data)
    if isinstance(data, bytes):
        return "bytes", data
    if datacontenttype is None or is_json(datacontenttype):
        form, body = "json", encode_data(data)
    elif isinstance(data, str):
        form, body = "text", _utf8(data)
    else:
        raise InvalidEvent(
            f"data must be a string, not {json_kind(data)}: its type is {datacontenttype}",
            "wrong_type",
            "data",
        )
    if datacontenttype is not None:
        _require_charset(datacontenttype, body)
    return form, body


def essence(media_type: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return media_type.partition(";")[0].strip().lower()


def is_json(datacontenttype: str) -> bool:
    """Whether data of this media type is JSON: ``*/json`` or ``*/*+json``, with or without parameters."""
    return essence(datacontenttype).endswith(("/json", "+json"))


def decode_base64(text: Any) -> bytes:
    """Return the bytes that ``data_base64`` stands for.

    Raises:
        InvalidEvent: it is not exactly the base64 of RFC 4648 (section 4), with padding and without line breaks.
    """
    if not isinstance(text, str):
        raise InvalidEvent(
            f"data_base64 must be a string, not {json_kind(text)}", "wrong_type", "data_base64"
        )
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = None
    # Python accepts bits after the data that are not zero.
    if data is None or base64.b64encode(data).decode() != text:
        raise InvalidEvent(
            "data_base64 is not base64 (RFC 4648), padded and in one line", member="data_base64"
        )
    return data


def charset_of(media_type: str) -> str | None:
    """Return the charset of a media type in lower case; None if it has none."""
    found = _CHARSET.search(media_type)
    return found["charset"].lower() if found else None


def _require_charset(datacontenttype: str, body: bytes) -> None:
    charset = charset_of(datacontenttype) or "utf-8"
    if charset not in ("utf-8", "utf8") and not (charset == "us-ascii" and body.isascii()):
        raise InvalidEvent(
            f"datacontenttype is {datacontenttype}, but data is sent as UTF-8: for other bytes, give data_base64",
            member="datacontenttype",
        )


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
        raise _lone_surrogate() from None
    except RecursionError:
        raise InvalidEvent("data is nested too deeply", "too_large", "data") from None
    except (ValueError, TypeError) as error:
        raise InvalidEvent(f"data is not a JSON value: {error}", member="data") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _lone_surrogate() from None


def _lone_surrogate() -> InvalidEvent:
    return InvalidEvent("data contains a lone surrogate, which is not valid UTF-8", member="data")


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
