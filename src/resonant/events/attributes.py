"""Validates CloudEvents attributes and extensions."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from resonant.errors import InvalidEvent
from resonant.events.data import json_kind
from resonant.events.times import parse_rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ATTRIBUTE_CHARACTERS = 255
MAX_EXTENSIONS = 32
MAX_EXTENSION_CHARACTERS = 1024
MAX_EXTENSIONS_BYTES = 8 * 1024

# The attributes of CloudEvents 1.0, which are not extensions.
CONTEXT_ATTRIBUTES = (
    "id",
    "type",
    "source",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "specversion",
)
_RESERVED = frozenset({*CONTEXT_ATTRIBUTES, "data"})

# Forbidden in strings of CloudEvents 1.0: control characters, surrogates, noncharacters.
_NONCHARACTERS = "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(17))
_FORBIDDEN_CHARACTER = re.compile(rf"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_EXTENSION_NAME = re.compile(r"[a-z0-9]{1,20}")
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - a token of RFC 9110
_PARAMETER = rf'[ \t]*;[ \t]*{_TOKEN}=({_TOKEN}|"([^"\\]|\\.)*")'
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}({_PARAMETER})*")
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")


def text(name: str, value: Any, longest: int = MAX_ATTRIBUTE_CHARACTERS) -> str:
    """Return the value if it is a string with at least one character, none of them forbidden in CloudEvents."""
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} must be a string, not {json_kind(value)}")
    if not value or len(value) > longest:
        raise InvalidEvent(f"{name} must have 1 to {longest} characters, not {len(value)}")
    if not value.isprintable() and _FORBIDDEN_CHARACTER.search(value):
        raise InvalidEvent(f"{name} contains a control character, a lone surrogate or a noncharacter")
    return value


def visible_ascii(name: str, value: Any) -> str:
    """Return the value if it is visible ASCII: it is sent unencoded in a header and in the signed content."""
    given = text(name, value)
    if not given.isascii() or " " in given:
        raise InvalidEvent(f"{name} must contain only visible ASCII characters: {given!r}")
    return given


def rfc3339_text(name: str, value: Any) -> str:
    """Return the value if it is an RFC 3339 time."""
    given = text(name, value)
    if parse_rfc3339(given) is None:
        raise InvalidEvent(f"{name} {given!r} is not an RFC 3339 time, such as 2026-01-31T12:00:00Z")
    return given


def media_type(value: Any) -> str:
    """Return the value of ``datacontenttype`` if it is a media type of RFC 2046."""
    given = text("datacontenttype", value)
    if not given.isascii() or not _MEDIA_TYPE.fullmatch(given):
        raise InvalidEvent(f"datacontenttype {given!r} is not a media type, such as text/plain")
    return given


def absolute_uri(value: Any) -> str:
    """Return the value of ``dataschema`` if it is an absolute URI."""
    given = text("dataschema", value)
    if not _ABSOLUTE_URI.fullmatch(given):
        raise InvalidEvent(
            f"dataschema {given!r} is not an absolute URI, such as https://example.com/order.json"
        )
    return given


def extensions_json(extensions: Mapping[str, Any]) -> str | None:
    """Return the extensions as canonical JSON, sorted by name; None if there are none.

    Raises:
        InvalidEvent: a name or a value is not allowed, or there are too many.
    """
    given = {
        extension_name(name): extension_value(name, each)
        for name, each in extensions.items()
        if each is not None
    }
    if not given:
        return None
    if len(given) > MAX_EXTENSIONS:
        raise InvalidEvent(f"an event may have {MAX_EXTENSIONS} extension attributes, not {len(given)}")
    encoded = json.dumps(given, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    if (size := len(encoded.encode())) > MAX_EXTENSIONS_BYTES:
        raise InvalidEvent(
            f"the extension attributes are {size:,} bytes as JSON, the limit is {MAX_EXTENSIONS_BYTES:,}"
        )
    return encoded


def extension_name(name: Any) -> str:
    """Return the name if an extension may have it."""
    if not isinstance(name, str) or not _EXTENSION_NAME.fullmatch(name) or name in _RESERVED:
        raise InvalidEvent(
            f"{name!r:.80} cannot be the name of an extension attribute: 1 to 20 characters of a-z and 0-9"
        )
    return name


def extension_value(name: str, value: Any) -> str | bool | int:
    """Return the value if an extension may have it: a string, a boolean or a 32-bit integer."""
    if isinstance(value, str):
        if name == "expirytime":
            return rfc3339_text(name, value)
        return text(name, value, MAX_EXTENSION_CHARACTERS) if value else value
    if name != "expirytime" and isinstance(value, int) and -(2**31) <= value < 2**31:
        return value
    raise InvalidEvent(f"{name} must be a string, a boolean or a 32-bit integer, not {json_kind(value)}")
