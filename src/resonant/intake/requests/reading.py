"""Reads the events of a request, in each mode of the CloudEvents HTTP binding, and as JSON lines.

The rules and the words are those of ``input_lines``. In binary mode, the headers and the body become the members of a line first.
"""

import re
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers

from resonant.errors import InvalidEvent
from resonant.events import Event, charset_of, essence, is_json
from resonant.input_lines import decode_array, decode_json, event_from_fields, longest_line, too_long
from resonant.intake.limits import IntakeLimits
from resonant.intake.problems import Problem, Refusal, refused

ContentMode = Literal["structured", "binary", "batch", "lines"]
SINGLE: tuple[ContentMode, ...] = ("structured", "binary")
MODES: dict[str, ContentMode] = {
    "application/cloudevents+json": "structured",
    "application/cloudevents-batch+json": "batch",
    "application/jsonl": "lines",
}
# Receivers recognise the other modes by this prefix.
_CLOUDEVENTS = "application/cloudevents"
_UTF_8 = (None, "utf-8", "utf8", "us-ascii")
_ATTRIBUTE = b"ce-"
_NO_ATTRIBUTES = {
    "data": "data is the body in binary mode, not a header",
    "data_base64": "data is the body in binary mode, not a header",
    "datacontenttype": "datacontenttype is the header Content-Type in binary mode, not ce-datacontenttype",
}
# It may be in quotes, as a string of RFC 9651.
IDEMPOTENCY_KEY = re.compile(r'"(?P<quoted>[!#-\[\]-~]{1,255})"|(?P<plain>[!#-\[\]-~]{1,255})')
_TEXT = re.compile(r"text/.*|.*[/+]xml")


def mode_of(headers: Headers) -> ContentMode:
    """Return how a request contains its events.

    Raises:
        Problem: 415, its media type is none of those that are read.
    """
    kinds = headers.getlist("content-type")
    if len(kinds) > 1:
        raise Problem(415, "the request has several Content-Type headers")
    kind = kinds[0] if kinds else ""
    name = essence(kind)
    if not name.startswith(_CLOUDEVENTS) and any(key.startswith(_ATTRIBUTE) for key, _ in headers.raw):
        return "binary"
    if name not in MODES:
        raise _not_accepted(f"the media type {name!r:.80}" if name else "a request without Content-Type")
    if charset_of(kind) not in _UTF_8:
        raise _not_accepted("a charset other than UTF-8")
    return MODES[name]


def most_bytes(mode: ContentMode, limits: IntakeLimits) -> int:
    """Return how many bytes the body of a request may have."""
    if mode not in SINGLE:
        return limits.batch_bytes
    # More is 503 for any request, however often it is repeated.
    return min(longest_line(limits.event_bytes), limits.held_bytes)


def read_events(
    mode: ContentMode, headers: Headers, body: bytes, limits: IntakeLimits
) -> list[Event | Refusal]:
    """Return the events of a request in their order; a refusal in place of an event that is not valid.

    Raises:
        Problem: the body as a whole cannot be read, or has too many events.
    """
    common = _trace(headers)
    key = _idempotency_key(mode, headers)

    def build(fields: Any) -> Event:
        if isinstance(fields, dict):
            if key is not None and fields.get("id") is None:
                fields["id"] = key
            if common and fields.get("traceparent") is None and fields.get("tracestate") is None:
                fields |= common
        return event_from_fields(fields, max_bytes=limits.event_bytes)

    match mode:
        case "structured":
            return [_event_or_refusal(0, lambda given: build(decode_json(given)), body)]
        case "binary":
            return [_event_or_refusal(0, lambda given: build(_binary_fields(headers, given)), body)]
        case "lines":
            return _lines(body, build, limits)
        case "batch":
            return _batch(body, build, limits)


def _event_or_refusal(index: int, build: Callable[[Any], Event], given: Any) -> Event | Refusal:
    try:
        return build(given)
    except InvalidEvent as error:
        return _refusal(index, error)


def _refusal(index: int, error: InvalidEvent) -> Refusal:
    return Refusal(index, str(error), error.code, error.pointer)


def _batch(body: bytes, build: Callable[[Any], Event], limits: IntakeLimits) -> list[Event | Refusal]:
    found: list[Event | Refusal] = []
    try:
        for fields in decode_array(body):
            if len(found) == limits.batch_events:
                raise _too_many(limits)
            found.append(_event_or_refusal(len(found), build, fields))
    except InvalidEvent as error:
        # The position of the next event is unknown.
        raise refused([_refusal(len(found), error)], of=1) from None
    return found


def _lines(body: bytes, build: Callable[[Any], Event], limits: IntakeLimits) -> list[Event | Refusal]:
    longest = longest_line(limits.event_bytes)

    def parse(line: bytes) -> Event:
        if len(line) > longest:
            raise too_long(longest)
        return build(decode_json(line))

    # Not `split`: 8 MiB of line breaks would take 64 MiB.
    given = (line.removesuffix(b"\n") for line in BytesIO(body) if not line.isspace())
    lines = list(islice(given, limits.batch_events + 1))
    if len(lines) > limits.batch_events:
        raise _too_many(limits)
    return [_event_or_refusal(index, parse, line) for index, line in enumerate(lines)]


def _binary_fields(headers: Headers, body: bytes) -> dict[str, Any]:
    """Return an event in binary mode as the members of a line; bytes as data stand for ``data_base64``."""
    fields: dict[str, Any] = dict(_attributes(headers))
    kind = headers.get("content-type")
    if kind is not None:
        fields["datacontenttype"] = kind
    if body:
        fields["data"] = _data(kind, body)
    return fields


def _attributes(headers: Headers) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for key, value in headers.raw:
        if not key.startswith(_ATTRIBUTE):
            continue
        name = key[len(_ATTRIBUTE) :].decode("latin-1")
        if name in _NO_ATTRIBUTES:
            raise InvalidEvent(_NO_ATTRIBUTES[name], "invalid_name", name)
        if name in seen:
            raise InvalidEvent(f"{name} is given twice", member=name)
        seen.add(name)
        yield name, _decoded(name, value)


def _decoded(name: str, value: bytes) -> str:
    """Decode a header as the CloudEvents HTTP binding says in 3.1.3.2: a quoted string first, then percent-encoding, once."""
    try:
        return unquote_to_bytes(_unquoted(value.decode("latin-1")).encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise InvalidEvent(f"{name} is not percent-encoded UTF-8", member=name) from None


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def _data(kind: str | None, body: bytes) -> Any:
    if kind is None:
        return body
    if is_json(kind):
        try:
            return decode_json(body)
        except InvalidEvent as error:
            raise InvalidEvent(str(error), error.code, "data") from None
    return _text_or_bytes(kind, body)


def _text_or_bytes(kind: str, body: bytes) -> str | bytes:
    charset = charset_of(kind)
    if charset not in _UTF_8 or (charset is None and not _TEXT.fullmatch(essence(kind))):
        return body
    try:
        return body.decode("ascii" if charset == "us-ascii" else "utf-8")
    except UnicodeDecodeError:
        return body


def _idempotency_key(mode: ContentMode, headers: Headers) -> str | None:
    keys = headers.getlist("idempotency-key")
    if not keys:
        return None
    if mode not in SINGLE:
        raise Problem(400, "Idempotency-Key is for a single event: give each event of a batch an id")
    if len(keys) > 1:
        raise Problem(400, "the request has several Idempotency-Key headers")
    if not (found := IDEMPOTENCY_KEY.fullmatch(keys[0])):
        raise Problem(
            400,
            "Idempotency-Key must have 1 to 255 visible ASCII characters, without quotes and backslashes among them",
        )
    return found["quoted"] or found["plain"]


def _trace(headers: Headers) -> dict[str, str]:
    """Return the trace of the request, for events that have none."""
    parent = headers.get("traceparent")
    if parent is None:
        return {}
    states = headers.getlist("tracestate")
    return {"traceparent": parent} | ({"tracestate": ",".join(states)} if states else {})


def _not_accepted(what: str) -> Problem:
    kinds = ", ".join(MODES)
    return Problem(
        415,
        f"{what} is not accepted: send {kinds}, or binary mode with ce-type and ce-source as headers",
        headers={"Accept": kinds},
    )


def _too_many(limits: IntakeLimits) -> Problem:
    most = limits.batch_events
    return Problem(413, f"the request has more than {most:,} events: send several requests", limit=most)
