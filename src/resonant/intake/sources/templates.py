"""Templates of event attributes: text with values of a request, which are never evaluated.

::

    com.github.{header.x-github-event}.{data/action|none}
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, quote

from starlette.datastructures import Headers

from resonant.errors import InvalidEvent
from resonant.events import essence, is_json
from resonant.input_lines import decode_json

FORM = "application/x-www-form-urlencoded"
USE_JSON = "set the content type application/json at the provider"
MOST_CHARACTERS = 1_024
_MOST_FIELDS = 1_000
# `quote` does not change it, but takes longer to find this out.
_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")
_PLACE = re.compile(
    r"\{(?:header\.(?P<header>[A-Za-z0-9_-]+)|data(?P<pointer>(?:/[^{}|]*)+))(?:\|(?P<default>[^{}]*))?\}"
)


class Received:
    """The headers and the body of a request, as templates see them.

    Args:
        headers: of the request.
        body: its bytes.
        data: the parsed body; by default, it is parsed when it is needed.
    """

    def __init__(self, headers: Headers, body: bytes, data: Any = None) -> None:
        self.headers, self.body, self._data = headers, body, data

    @property
    def kind(self) -> str:
        """The media type of the body, without parameters, in lower case."""
        return essence(self.headers.get("content-type", ""))

    @property
    def data(self) -> Any:
        """The parsed body: a JSON value, or the fields of a form.

        Raises:
            InvalidEvent: it is neither.
        """
        if self._data is None:
            self._data = form_fields(self.body) if self.kind == FORM else self._json()
        return self._data

    def _json(self) -> Any:
        try:
            return decode_json(self.body)
        except InvalidEvent as error:
            if not is_json(self.kind):
                raise
            raise InvalidEvent(
                f"the content type {self.kind:.60} does not fit the body ({error}): correct one of them at the provider"
            ) from None

    def of_field(self, name: str) -> Self:
        """Return the request as if it were sent without its form, with the JSON of a field as its body.

        Raises:
            InvalidEvent: the form does not have this field once, or it is not JSON.
        """
        try:
            text = _only_value(self.body, name)
            data = decode_json(text)
        except InvalidEvent as error:
            raise InvalidEvent(f"cannot read the field {name} of the form ({error}): {USE_JSON}") from None
        headers = self.headers.mutablecopy()
        headers["content-type"] = "application/json"
        return type(self)(headers, text.encode(), data)


def form_fields(body: bytes) -> dict[str, str]:
    """Return the fields of a form; of several with one name, the first.

    Raises:
        InvalidEvent: the form is malformed, or has too many fields.
    """
    # The first of several, as in most frameworks.
    return dict(reversed(_form_pairs(body)))


def _only_value(form: bytes, name: str) -> str:
    values = [value for field, value in _form_pairs(form) if field == name]
    if len(values) != 1:
        raise InvalidEvent("it is given more than once" if values else "it is missing")
    return values[0]


def _form_pairs(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        raise InvalidEvent(
            f"the body must be a form of at most {_MOST_FIELDS} fields in UTF-8", "not_json"
        ) from None


class _Place(NamedTuple):
    text: str
    header: str | None
    pointer: list[str]
    default: str | None


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template.

    Attributes:
        text: as written.
    """

    text: str
    _parts: tuple[str | _Place, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a template.

        Raises:
            ValueError: a brace is not part of a value.
        """
        parts: list[str | _Place] = []
        at = 0
        for found in _PLACE.finditer(text):
            parts.append(text[at : found.start()])
            tokens = [
                each.replace("~1", "/").replace("~0", "~") for each in (found["pointer"] or "").split("/")[1:]
            ]
            name = found["header"] and found["header"].lower()
            parts.append(_Place(found[0][1:-1].partition("|")[0], name, tokens, found["default"]))
            at = found.end()
        parts.append(text[at:])
        if any(brace in part for part in parts if isinstance(part, str) for brace in "{}"):
            raise ValueError(
                f"{text!r}: a value is {{header.NAME}} or {{data/POINTER}}, with a default after |"
            )
        return cls(text, tuple(part for part in parts if part))

    @property
    def has_header(self) -> bool:
        """Whether a value is a header."""
        return any(part.header is not None for part in self._parts if isinstance(part, _Place))

    @property
    def start(self) -> str:
        """The fixed text at its beginning."""
        return self._parts[0] if self._parts and isinstance(self._parts[0], str) else ""

    def render(self, received: Received, *, safe: str = "") -> str:
        """Return the text with the values of a request, percent-encoded.

        Args:
            received: the request.
            safe: characters that are not encoded.

        Raises:
            InvalidEvent: a value is missing without a default, is a list or an object, or the text is too long.
        """
        text = "".join(part if isinstance(part, str) else _text(part, received, safe) for part in self._parts)
        if len(text) > MOST_CHARACTERS:
            raise InvalidEvent(f"{self.text!r} has more than {MOST_CHARACTERS:,} characters with its values")
        return text


def _text(place: _Place, received: Received, safe: str) -> str:
    found = _in_data(received, place) if place.header is None else _header(received, place.header)
    if found is None or found == "":
        if place.default is None:
            raise InvalidEvent(f"the request has no {place.text}", "missing")
        return place.default
    if isinstance(found, bool):
        return str(found).lower()
    if not isinstance(found, str | int | float | Decimal):
        raise InvalidEvent(f"{place.text} is not a single value", "wrong_type")
    text = str(found)
    if _UNRESERVED.fullmatch(text):
        return text
    try:
        return quote(text, safe=safe, errors="strict")
    except UnicodeEncodeError:
        raise InvalidEvent(f"{place.text} has a lone surrogate") from None


def _in_data(received: Received, place: _Place) -> Any:
    try:
        return _at(received.data, place.pointer)
    except InvalidEvent:
        if place.default is None:
            raise
        return None


def _header(received: Received, name: str) -> str | None:
    given = received.headers.getlist(name)
    if len(given) > 1:
        raise InvalidEvent(f"the request has several headers {name}")
    return given[0] if given else None


def _at(value: Any, tokens: list[str]) -> Any:
    """Return the value at a JSON pointer (RFC 6901); None if there is none."""
    for token in tokens:
        if isinstance(value, Mapping):
            value = value.get(token)
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9][0-9]{0,5}", token):
            value = value[int(token)] if int(token) < len(value) else None
        else:
            return None
    return value
