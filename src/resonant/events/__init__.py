"""Frozen data classes: events, and the states of their deliveries.

Times are seconds since the Unix epoch (float, UTC) everywhere, except ``Event.time``, which is the producer's own
RFC 3339 text (CloudEvents ``time``) and is never used in calculations.
"""

from resonant.events.attributes import RESERVED_NAMES, canonical_text
from resonant.events.data import (
    ABSENT,
    Form,
    JsonBytes,
    charset_of,
    decode_base64,
    encode_data,
    essence,
    is_json,
    json_kind,
)
from resonant.events.deliveries import (
    ENDPOINT_NAME,
    Attempt,
    Blame,
    Category,
    Clock,
    DeadLetter,
    Delivery,
    Lease,
    LeaseKey,
    Reason,
    Result,
    Status,
)
from resonant.events.event import DEFAULT_MAX_EVENT_BYTES, Event, EventKey, given_attributes, new_event_id
from resonant.events.own import OWN_SOURCE, OWN_TYPES, is_own_type, refuse_own
from resonant.events.times import minute, parse_moment, rfc3339

__all__ = [
    "ABSENT",
    "DEFAULT_MAX_EVENT_BYTES",
    "ENDPOINT_NAME",
    "OWN_SOURCE",
    "OWN_TYPES",
    "RESERVED_NAMES",
    "Attempt",
    "Blame",
    "Category",
    "Clock",
    "DeadLetter",
    "Delivery",
    "Event",
    "EventKey",
    "Form",
    "JsonBytes",
    "Lease",
    "LeaseKey",
    "Reason",
    "Result",
    "Status",
    "canonical_text",
    "charset_of",
    "decode_base64",
    "encode_data",
    "essence",
    "given_attributes",
    "is_json",
    "is_own_type",
    "json_kind",
    "minute",
    "new_event_id",
    "parse_moment",
    "refuse_own",
    "rfc3339",
]
