"""Validates CloudEvents attributes and extensions."""

import json
import re
from collections.abc import Mapping
from typing import Any

from resonant.errors import InvalidEvent
from resonant.events.data import json_kind
from resonant.events.times import parse_rfc3339

MAX_ATTRIBUTE_CHARACTERS = 255
MAX_EXTENSIONS = 32
MAX_EXTENSION_CHARACTERS = 1024
MAX_EXTENSIONS_BYTES = 8 * 1024

# Names that an extension cannot have: the attributes of CloudEvents 1.0, and `data`.
RESERVED_NAMES = frozenset(
    {"id", "type", "source", "time", "subject", "datacontenttype", "dataschema", "specversion", "data"}
)

# Forbidden in strings of CloudEvents 1.0: control characters, surrogates, noncharacters.
NONCHARACTERS = "".join(chr(plane * 0x10000 + code) for plane in range(17) for code in (0xFFFE, 0xFFFF))
FORBIDDEN_CHARACTER = re.compile(rf"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{NONCHARACTERS}]")
_NAME = re.compile(r"[a-z0-9]{1,20}")
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - a token of RFC 9110
MEDIA_TYPE = rf'{_TOKEN}/{_TOKEN}( *; *{_TOKEN}=({_TOKEN}|"([ !#-\[\]-~]|\\[ -~])*"))*'
ABSOLUTE_URI = r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+"
_MEDIA_TYPE, _ABSOLUTE_URI = re.compile(MEDIA_TYPE), re.compile(ABSOLUTE_URI)


def text(name: str, value: Any, longest: int = MAX_ATTRIBUTE_CHARACTERS) -> str:
    """Return the value if it is a string with at least one character, none of them forbidden in CloudEvents."""
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} must be a string, not {json_kind(value)}", "wrong_type", name)
    if not value or len(value) > longest:
        raise InvalidEvent(f"{name} must have 1 to {longest:,} characters, not {len(value):,}", member=name)
    if not value.isprintable() and FORBIDDEN_CHARACTER.search(value):
        raise InvalidEvent(
            f"{name} contains a control character, a lone surrogate or a noncharacter", member=name
        )
    return value


def rfc3339_text(name: str, value: Any) -> str:
    """Return the value if it is an RFC 3339 time."""
    given = text(name, value)
    if parse_rfc3339(given) is None:
        raise InvalidEvent(
            f"{name} {given!r} is not an RFC 3339 time, such as 2026-01-31T12:00:00Z", member=name
        )
    return given


def media_type(value: Any) -> str:
    """Return the value of ``datacontenttype`` if it is a media type of RFC 2046; it is sent unencoded in a header."""
    return _matching("datacontenttype", value, _MEDIA_TYPE, "a media type, such as text/plain; charset=utf-8")


def absolute_uri(value: Any) -> str:
    """Return the value of ``dataschema`` if it is an absolute URI."""
    return _matching(
        "dataschema", value, _ABSOLUTE_URI, "an absolute URI, such as https://example.com/order.json"
    )


def extensions_json(extensions: Mapping[str, Any]) -> str | None:
    """Return the extensions as canonical JSON, sorted by name; None if there are none.

    Args:
        extensions: values by name; a value of None means that there is no such extension.

    Raises:
        InvalidEvent: a name or a value is not allowed, or there are too many.
    """
    given = {_extension_name(key): _value(key, value) for key, value in extensions.items()}
    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        return None
    if len(given) > MAX_EXTENSIONS:
        raise InvalidEvent(
            f"an event can have {MAX_EXTENSIONS} extension attributes, not {len(given):,}", "too_many"
        )
    size = sum(len(key) + len(str(value).encode()) for key, value in given.items())
    if size > MAX_EXTENSIONS_BYTES:
        raise InvalidEvent(
            f"the extension attributes have {size:,} bytes, the limit is {MAX_EXTENSIONS_BYTES:,}",
            "too_large",
        )
    return json.dumps(given, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def attribute_name(value: Any) -> str:
    """Return the value if it can be the name of an attribute."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    suggestion = re.sub(r"[^a-z0-9]", "", str(value)[:100].lower())[:20]
    hint = f"; did you mean {suggestion!r}?" if suggestion else ""
    raise InvalidEvent(
        f"{value!r:.80} is not the name of an attribute, which has 1 to 20 of a-z and 0-9{hint}",
        "invalid_name",
        str(value),
    )


def canonical_text(value: str | bool | int) -> str:
    """Return the canonical string of an attribute (CloudEvents, section "Type System")."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _matching(name: str, value: Any, pattern: re.Pattern[str], description: str) -> str:
    given = text(name, value)
    if not pattern.fullmatch(given):
        raise InvalidEvent(f"{name} {given!r} is not {description}", member=name)
    return given


def _extension_name(key: Any) -> str:
    if attribute_name(key) in RESERVED_NAMES:
        raise InvalidEvent(f"{key} is not an extension attribute", "invalid_name", key)
    return str(key)


def _value(name: str, value: Any) -> str | bool | int | None:
    if value is None:
        return None
    if name == "expirytime":
        return rfc3339_text(name, value)
    if isinstance(value, str):
        return text(name, value, MAX_EXTENSION_CHARACTERS) if value else value
    if isinstance(value, int) and -(2**31) <= value < 2**31:
        return value
    kind = "this number" if json_kind(value) == "a number" else json_kind(value)
    raise InvalidEvent(
        f"{name} must be a string, a boolean or an integer of 32 bits, not {kind}: it is an extension attribute",
        "wrong_type",
        name,
    )
