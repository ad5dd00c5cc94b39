"""Frozen data classes: events, and the states of their deliveries.

Times are seconds since the Unix epoch (float, UTC) everywhere, except ``Event.time``, which is the producer's own
RFC 3339 text (CloudEvents ``time``) and is never used in calculations.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from resonant.errors import InvalidEvent

Status = Literal["pending", "retrying", "delivered", "dead_letter"]
Reason = Literal["permanent", "exhausted", "expired", "crashed", "cancelled"]
Result = Literal["delivered", "failed", "lost"]
Category = Literal["transient", "permanent", "unknown"]
Blame = Literal["endpoint", "local"]
Clock = Callable[[], float]

DEFAULT_MAX_EVENT_BYTES = 1024 * 1024
MAX_ATTRIBUTE_CHARACTERS = 255

# Forbidden in strings of CloudEvents 1.0: control characters, surrogates, noncharacters.
_NONCHARACTERS = "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(17))
_FORBIDDEN_CHARACTER = re.compile(rf"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_NAME = r"[a-z0-9]+(-[a-z0-9]+)*"
# An endpoint's name in the store, labels and logs: NAME, or BLOCK-TYPE/NAME.
ENDPOINT_NAME = re.compile(rf"({_NAME}/)?{_NAME}")
# `datetime.fromisoformat` also accepts week dates, bare hours, commas and 24:00, which RFC 3339 does not allow.
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:[0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """An immutable event, with CloudEvents 1.0 attributes.

    Attributes:
        id: 1 to 255 visible ASCII characters; the ``webhook-id`` of every attempt.
        type: e.g. ``com.example.order.paid``.
        source: a URI reference to the producer.
        body: ``data`` as compact UTF-8 JSON, keys in the given order; every attempt sends these bytes.
        time: when the event happened, in RFC 3339; None means the time of acceptance.
        subject: the subject of the event within the source.
    """

    id: str
    type: str
    source: str
    body: bytes = field(repr=False)
    time: str | None = None
    subject: str | None = None

    def __init__(
        self,
        *,
        type: str,  # noqa: A002 - CloudEvents calls it that
        source: str,
        data: Any,
        id: str | None = None,  # noqa: A002 - CloudEvents calls it that
        time: str | None = None,
        subject: str | None = None,
        max_bytes: int = DEFAULT_MAX_EVENT_BYTES,
    ) -> None:
        """Validate the values, and serialise ``data`` once.

        Args:
            data: any JSON value.
            id: a new UUIDv7 by default.
            max_bytes: the largest body allowed, in bytes.

        Raises:
            InvalidEvent: a value is missing, malformed or too large; the message says which and why.
        """
        event_id = new_event_id() if id is None else _visible_ascii("id", id)
        body = encode_data(data)
        if len(body) > max_bytes:
            raise InvalidEvent(
                f"data is {len(body):,} bytes, the limit is {max_bytes:,} (RESONANT_MAX_EVENT_BYTES raises it)"
            )
        self._assign(
            event_id,
            _text("type", type),
            _text("source", source),
            body,
            None if time is None else _rfc3339(time),
            None if subject is None else _text("subject", subject),
        )

    @classmethod
    def from_stored(
        cls,
        id: str,  # noqa: A002 - CloudEvents calls it that
        type: str,  # noqa: A002 - CloudEvents calls it that
        source: str,
        body: bytes,
        time: str | None = None,
        subject: str | None = None,
    ) -> Event:
        """Rebuild a stored event, without validation."""
        event = cls.__new__(cls)
        event._assign(id, type, source, body, time, subject)  # noqa: SLF001 - of its own class
        return event

    def _assign(self, *values: str | bytes | None) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    @property
    def digest(self) -> str:
        """SHA-256 of all fields except the id, as 64 hex digits; equal content has an equal digest."""
        attributes = json.dumps([self.type, self.source, self.time, self.subject]).encode()
        return hashlib.sha256(attributes + b"\n" + self.body).hexdigest()


class LeaseKey(NamedTuple):
    """Identifies a lease."""

    delivery_id: int
    token: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's claim on one delivery, with the data for the next attempt.

    Attributes:
        delivery_id: the store's key.
        token: the fencing token; it grows with every claim.
        owner: the owner of the lease, e.g. a flow run's id.
        attempts: attempts recorded so far, over all rounds.
        round: 1 at acceptance; each replay adds one.
        round_attempts: attempts recorded in this round.
        round_started_at: when the round began; the policy's ``max_age`` counts from here.
        accepted_at: when the event was stored.
        last_delay: the delay before this attempt, in seconds (decorrelated jitter starts from it).
        policy: the policy's name, set when the event was stored; None for the endpoint's policy.
        max_attempts: overrides the policy's limit; set when the event was stored.
        backoff_until: the end of the delivery's own backoff, if a gate released it earlier; an earlier failure is not charged.
        crashes: leases of this round that were lost while sending.
        key: identifies the lease, even among leases of the same delivery.
    """

    delivery_id: int
    token: int
    owner: str
    event: Event
    endpoint: str
    attempts: int = 0
    round: int = 1
    round_attempts: int = 0
    round_started_at: float = 0.0
    accepted_at: float = 0.0
    last_delay: float | None = None
    policy: str | None = None
    max_attempts: int | None = None
    backoff_until: float | None = None
    crashes: int = 0
    key: LeaseKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Not a property: a run reads it some twenty times per delivery.
        object.__setattr__(self, "key", LeaseKey(self.delivery_id, self.token))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as stored in the history.

    Attributes:
        late: reported after its lease was lost; it changed only the history.
        early: failed before the end of the delivery's own backoff, because a gate released the delivery earlier; not counted in
            ``max_attempts``.
    """

    number: int
    round: int
    started_at: float
    duration: float
    result: Result
    status_code: int | None = None
    category: str | None = None
    code: str | None = None
    blame: str | None = None
    maybe_processed: bool | None = None
    error_type: str | None = None
    error: str | None = None
    excerpt: str | None = None
    warning: str | None = None
    retry_after: float | None = None
    decision: str | None = None
    delay: float | None = None
    next_attempt_at: float | None = None
    owner: str | None = None
    task_run_id: str | None = None
    late: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """The current state of one event to one endpoint."""

    event_id: str
    event_type: str
    endpoint: str
    status: Status
    attempts: int
    replays: int
    accepted_at: float
    first_attempt_at: float | None
    next_attempt_at: float | None
    finished_at: float | None
    reason: Reason | None
    category: str | None
    code: str | None
    error_type: str | None
    error: str | None
    status_code: int | None
    leased_by: str | None = None
    lease_until: float | None = None
    backoff_until: float | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that was given up; the fields are the keys of ``resonant dlq --json``.

    Attributes:
        answer: the beginning of the receiver's answer to the last attempt, without secrets.
        maybe_processed: whether the receiver may have processed the event in a failed attempt.
    """

    event_id: str
    event_type: str
    endpoint: str
    reason: Reason
    category: str | None
    code: str | None
    error_type: str | None
    error: str | None
    status_code: int | None
    attempts: int
    first_attempt_at: float | None
    dead_at: float
    replays: int
    answer: str | None = None
    maybe_processed: bool = False


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


def encode_data(data: Any) -> bytes:
    """Serialise an event's data as compact UTF-8 JSON, keys in the given order.

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


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} must be a string, not {json_kind(value)}")
    if not value or len(value) > MAX_ATTRIBUTE_CHARACTERS:
        raise InvalidEvent(f"{name} must have 1 to {MAX_ATTRIBUTE_CHARACTERS} characters, not {len(value)}")
    if not value.isprintable() and _FORBIDDEN_CHARACTER.search(value):
        raise InvalidEvent(f"{name} contains a control character, a lone surrogate or a noncharacter")
    return value


def _visible_ascii(name: str, value: Any) -> str:
    # Sent unencoded in a header and in the signed content.
    text = _text(name, value)
    if not text.isascii() or " " in text:
        raise InvalidEvent(f"{name} must contain only visible ASCII characters: {text!r}")
    return text


def _rfc3339(value: Any) -> str:
    text = _text("time", value)
    if not _is_rfc3339(text.upper()):
        raise InvalidEvent(f"time {text!r} is not an RFC 3339 time, such as 2026-01-31T12:00:00Z")
    return text


def _is_rfc3339(text: str) -> bool:
    if not _RFC3339.fullmatch(text):
        return False
    # `datetime` has no leap seconds. A leap second is the last second of a month in UTC (RFC 3339, 5.7).
    is_leap = text[17:19] == "60"
    try:
        moment = datetime.fromisoformat(f"{text[:17]}59{text[19:]}" if is_leap else text)
        in_utc = moment.astimezone(UTC) if is_leap else None
    except (ValueError, OverflowError):
        return False
    if in_utc is None:
        return True
    last_day = monthrange(in_utc.year, in_utc.month)[1]
    return (in_utc.day, in_utc.hour, in_utc.minute) == (last_day, 23, 59)


def rfc3339(moment: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
