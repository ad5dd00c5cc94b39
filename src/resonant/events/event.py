"""Events, with CloudEvents 1.0 attributes."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

from resonant.errors import InvalidEvent
from resonant.events import attributes as checked
from resonant.events.data import ABSENT, Form, encode, encode_data
from resonant.events.times import moment_of
from resonant.events.traces import trace_of_event

DEFAULT_MAX_EVENT_BYTES = 1024 * 1024
# Not part of an event's content: a producer that repeats an event may send others.
_NOT_IN_DIGEST = ("recordedtime",)


class EventKey(NamedTuple):
    """Identifies an event, as in CloudEvents."""

    source: str
    id: str


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """An immutable event, with CloudEvents 1.0 attributes.

    Attributes:
        id: 1 to 255 characters, no control characters.
        type: e.g. ``com.example.order.paid``.
        source: a URI reference to the producer.
        body: ``data`` as bytes, empty if absent. JSON is compact UTF-8, keys in the given order. Every attempt sends them.
        time: when the event happened, in RFC 3339; None means the time of acceptance.
        subject: the subject of the event within the source.
        form: the form of ``data``: ``json``, ``text``, ``bytes`` or ``absent``; of a stored event whose data is gone,
            ``removed`` or ``erased``.
        datacontenttype: the media type of ``data``; None means JSON, or unknown if ``data`` is bytes.
        dataschema: the absolute URI of a schema of ``data``.
        extensions_json: ``extensions`` as canonical JSON; None if there are none.
        traceparent, tracestate: the trace in which the event was created (W3C Trace Context): given as extensions, or that of
            the current OpenTelemetry span.
        webhook_id: the ``webhook-id`` of every attempt, set by the store at acceptance; None before.
        drops_trace: whether a given ``traceparent`` or ``tracestate`` is invalid, and was dropped.
    """

    id: str
    type: str
    source: str
    body: bytes = field(repr=False)
    time: str | None = None
    subject: str | None = None
    form: Form = "json"
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions_json: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    webhook_id: str | None = field(default=None, compare=False)
    drops_trace: bool = field(default=False, compare=False, repr=False)

    def __init__(
        self,
        *,
        type: str,  # noqa: A002 - CloudEvents calls it that
        source: str,
        data: Any = ABSENT,
        id: str | None = None,  # noqa: A002 - CloudEvents calls it that
        time: str | None = None,
        subject: str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions: Mapping[str, str | bool | int | None] | None = None,
        max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
    ) -> None:
        """Validate the values, and serialise ``data`` once.

        Args:
            data: any JSON value, or bytes; with a ``datacontenttype`` that is not JSON, a string or bytes. No data by default.
            id: a new UUIDv7 by default.
            datacontenttype: JSON by default.
            extensions: up to 32 extension attributes: strings, booleans and 32-bit integers; None means absent.
            max_bytes: the largest body allowed, in bytes.

        Raises:
            InvalidEvent: a value is missing, malformed or too large; the message says which and why.
        """
        event_id = new_event_id() if id is None else checked.text("id", id)
        form: Form = "json"
        if datacontenttype is None and data is not ABSENT and not isinstance(data, bytes):
            body = encode_data(data)
        else:
            datacontenttype = None if datacontenttype is None else checked.media_type(datacontenttype)
            form, body = encode(data, datacontenttype)
            if form == "json" and datacontenttype == "application/json":
                datacontenttype = None
        if len(body) > max_bytes:
            raise InvalidEvent(
                f"data is {len(body):,} bytes, the limit is {max_bytes:,} (RESONANT_MAX_EVENT_BYTES raises it)",
                "too_large",
                "data",
            )
        encoded_extensions = None
        if extensions:
            others = dict(extensions)
            trace = trace_of_event(others.pop("traceparent", None), others.pop("tracestate", None))
            encoded_extensions = checked.extensions_json(others)
        else:
            trace = trace_of_event()
        self._assign(
            event_id,
            checked.text("type", type),
            checked.text("source", source),
            body,
            None if time is None else checked.rfc3339_text("time", time),
            None if subject is None else checked.text("subject", subject),
            form,
            datacontenttype,
            None if dataschema is None else checked.absolute_uri(dataschema),
            encoded_extensions,
            trace.traceparent,
            trace.tracestate,
            None,
            trace.drops,
        )

    @classmethod
    def from_stored(cls, *fields: Any, **others: Any) -> "Event":
        """Rebuild a stored event from its fields, in their order or by name, without validation."""
        event = cls.__new__(cls)
        event._assign(*fields, **others)  # noqa: SLF001 - of its own class
        return event

    def _assign(
        self,
        id: str,  # noqa: A002
        type: str,  # noqa: A002
        source: str,
        body: bytes,
        time: str | None = None,
        subject: str | None = None,
        form: Form | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions_json: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        webhook_id: str | None = None,
        drops_trace: bool = False,
    ) -> None:
        _set_id(self, id)
        _set_type(self, type)
        _set_source(self, source)
        _set_body(self, body)
        _set_time(self, time)
        _set_subject(self, subject)
        _set_form(self, form or "json")
        _set_datacontenttype(self, datacontenttype)
        _set_dataschema(self, dataschema)
        _set_extensions_json(self, extensions_json)
        _set_traceparent(self, traceparent)
        _set_tracestate(self, tracestate)
        _set_webhook_id(self, webhook_id)
        _set_drops_trace(self, drops_trace)

    @property
    def identity(self) -> EventKey:
        """The source and the id, which together identify the event."""
        return EventKey(self.source, self.id)

    @property
    def extensions(self) -> dict[str, str | bool | int]:
        """The extension attributes, sorted by name, without ``traceparent`` and ``tracestate``."""
        extensions: dict[str, str | bool | int] = (
            json.loads(self.extensions_json) if self.extensions_json else {}
        )
        return extensions

    @property
    def expires_at(self) -> float | None:
        """The extension ``expirytime`` in seconds since the epoch; None if there is none."""
        if self.extensions_json is None or '"expirytime"' not in self.extensions_json:
            return None
        expirytime = self.extensions.get("expirytime")
        return moment_of(expirytime) if isinstance(expirytime, str) else None

    def has_expired(self, now: float) -> bool:
        """Whether the event's ``expirytime`` has passed, given the time in seconds since the epoch."""
        return self.extensions_json is not None and (at := self.expires_at) is not None and at <= now

    @property
    def digest(self) -> str:
        """SHA-256 of the content, as 64 hex digits: equal events have an equal digest.

        The id, the trace and the extension ``recordedtime`` are not content.
        """
        # As `json.dumps` writes it, but faster.
        attributes = (
            f"[{_quoted(self.type)}, {_quoted(self.source)}, {_quoted(self.time)}, {_quoted(self.subject)}]"
        )
        if self.form != "json" or self.datacontenttype or self.dataschema or self.extensions_json:
            extensions = {
                name: value for name, value in self.extensions.items() if name not in _NOT_IN_DIGEST
            }
            more = [self.form, self.datacontenttype, self.dataschema, extensions]
            # Without any of these, the digest is the same as before they existed.
            if more != ["json", None, None, {}]:
                attributes += json.dumps(more)
        return hashlib.sha256(attributes.encode() + b"\n" + self.body).hexdigest()


def given_attributes(event: Event) -> dict[str, str | bool | int]:
    """Return the attributes that an event has, by name: those of CloudEvents, its extensions, and its trace."""
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": event.time,
        "subject": event.subject,
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        **event.extensions,
        "traceparent": event.traceparent,
        "tracestate": event.tracestate,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


# Faster than `object.__setattr__`, and than a loop over the names.
(
    _set_id,
    _set_type,
    _set_source,
    _set_body,
    _set_time,
    _set_subject,
    _set_form,
    _set_datacontenttype,
    _set_dataschema,
    _set_extensions_json,
    _set_traceparent,
    _set_tracestate,
    _set_webhook_id,
    _set_drops_trace,
) = (getattr(Event, name).__set__ for name in Event.__slots__)


def new_event_id(now: float | None = None) -> str:
    """Return ``evt_`` and a UUIDv7 (RFC 9562, 5.7; sub-millisecond fraction in ``rand_a``), so that ids sort by time.

    Args:
        now: seconds since the epoch; the wall clock by default.
    """
    nanoseconds = time.time_ns() if now is None else int(now * 1e9)
    milliseconds, rest = divmod(nanoseconds, 1_000_000)
    fraction = rest * 4096 // 1_000_000
    tail = int.from_bytes(os.urandom(8)) & ((1 << 62) - 1)
    value = (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tail
    digits = f"{value:032x}"
    return f"evt_{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
