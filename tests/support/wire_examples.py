"""Events of every kind for tests of the wire, and what a receiver must read."""

import json
import string
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from resonant.events import ABSENT, RESERVED_NAMES, Event
from resonant.events.own import OWN_SOURCE, is_own_type

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EXTENSIONS = {
    "comment": 'Euro € 😀, 100 % "quoted"',
    "empty": "",
    "expirytime": "2099-01-31T12:00:00Z",
    "largest": 2**31 - 1,
    "no": False,
    "partitionkey": "shop-7",
    "smallest": -(2**31),
    "yes": True,
    "zero": 0,
}
# Names that are no extensions, or whose values have a form.
SPECIAL_NAMES = {*RESERVED_NAMES, "expirytime", "traceparent", "tracestate"}
_TRACE = {"traceparent": TRACEPARENT, "tracestate": "shop=a b,other=1"}


def _event(event_id: str, **parts: Any) -> Event:
    return Event(id=event_id, **{"type": "com.example.order.paid", "source": "/shop"} | parts)


EXAMPLES = {
    "JSON": _event("json", data={"order": 42, "name": "Grüße €"}),
    "every attribute": _event(
        "every-attribute",
        type="com.example.bestellung größer",
        source="/shop/a%20b?c=d",
        data=[1, 2.5, None, {"a": "b"}],
        time="2026-01-31T12:00:00.123Z",
        subject='order 42 "Ä"',
        datacontenttype="application/json; charset=utf-8",
        dataschema="https://example.com/order.json#v1",
        extensions=EXTENSIONS | _TRACE,
    ),
    "a JSON string": _event("json-string", data="a text"),
    "JSON null": _event("json-null", data=None),
    "a JSON type of its own": _event("own-type", data={"a": 1}, datacontenttype="application/vnd.shop+json"),
    "ASCII": _event("ascii", data="Hello, World!\n", datacontenttype="text/plain; charset=us-ascii"),
    "text": _event("text", data="Grüße, 1 €\r\n\t😀", datacontenttype="text/plain; charset=utf-8"),
    "XML": _event("xml", data='<a b="c"/>', datacontenttype="application/xml", extensions=EXTENSIONS),
    "empty text": _event("empty-text", data="", datacontenttype="text/plain"),
    "binary": _event("binary", data=bytes(range(256)), datacontenttype="image/png"),
    "binary without a type": _event("untyped", data=b"\xff\x00\xfe"),
    "empty binary": _event("empty-binary", data=b"", datacontenttype="application/octet-stream"),
    "absent": _event("absent", extensions={"partitionkey": "shop-7"}),
    "absent with a type": _event("absent-typed", datacontenttype="text/plain"),
    "an id of any text": _event('Bestellung 42 "größer", 100 %', data={"order": 42}),
    "a CloudEvent as data": _event(
        "event-in-event",
        data={"specversion": "1.0", "id": "forged", "source": "/bank", "type": "forged", "data": 1},
        datacontenttype="application/CloudEvents+JSON",
    ),
}


def is_structured(event: Event, mode: str) -> bool:
    return mode == "structured" or (event.datacontenttype or "").lower().startswith("application/cloudevents")


def attributes(event: Event, mode: str) -> dict[str, Any]:
    """Return the attributes that a receiver must read; in binary mode, extensions are strings."""
    extensions: Mapping[str, Any] = event.extensions
    kind = event.datacontenttype
    if not is_structured(event, mode):
        extensions = {name: _canonical(value) for name, value in extensions.items()}
    kind = kind or ("application/json" if event.form == "json" else None)
    found = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": event.time,
        "subject": event.subject,
        "datacontenttype": kind,
        "dataschema": event.dataschema,
        "traceparent": event.traceparent,
        "tracestate": event.tracestate,
    }
    return {name: value for name, value in found.items() if value is not None} | dict(extensions)


def _canonical(value: str | bool | int) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def data(event: Event) -> Any:
    """Return an event's data as an SDK returns it; None if it is absent, empty or null."""
    match event.form:
        case "json":
            return json.loads(event.body)
        case "text":
            return event.body.decode() or None
        case _:
            return event.body or None


def without_time(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes without the time: libraries parse it, and add the current one if there is none."""
    return {key: value for key, value in found.items() if key != "time" and value is not None}


def same_data(found: Any, event: Event) -> bool:
    """Return whether a library's data is an event's. In binary mode, it cannot tell text from bytes, nor empty from absent."""
    expected = data(event)
    if isinstance(expected, bytes) and isinstance(found, str):
        found = found.encode()
    if isinstance(expected, str) and isinstance(found, bytes):
        found = found.decode()
    return expected == (None if found in ("", b"") and event.form != "json" else found)


_TEXT = st.characters(exclude_categories=["Cc", "Cn", "Cs"])
IDS = st.text(_TEXT, min_size=1, max_size=30)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(_TEXT),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(_TEXT, max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
_EXTENSIONS = st.dictionaries(
    st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20).filter(
        lambda name: name not in SPECIAL_NAMES
    ),
    st.text(_TEXT, max_size=20) | st.booleans() | st.integers(-(2**31), 2**31 - 1),
    max_size=4,
)
_TIMES = st.datetimes(
    datetime(1970, 1, 2),  # noqa: DTZ001 - hypothesis adds the time zone
    datetime(9000, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC) | st.integers(-720, 840).map(lambda offset: timezone(timedelta(minutes=offset))),
).map(lambda moment: moment.isoformat())


@st.composite
def events(draw: st.DrawFn, ids: st.SearchStrategy[str] = IDS) -> Event:
    """Any event, within the limits of the SDKs: they read no leap seconds, and take bytes for text or JSON if they can."""
    kind, value = draw(
        st.tuples(st.sampled_from([None, "application/json; charset=utf-8", "application/a.b+json"]), _JSON)
        | st.tuples(st.sampled_from(["text/plain", "application/xml"]), st.text(_TEXT))
        | st.tuples(st.just("image/png"), st.binary())
        | st.tuples(st.none(), st.binary().map(b"\xff".__add__))
        | st.just((None, ABSENT))
    )
    optional = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "time": _TIMES,
                "subject": st.text(_TEXT, min_size=1, max_size=30),
                "dataschema": st.just("urn:schema:1"),
                "extensions": _EXTENSIONS,
            },
        )
    )
    return Event(
        id=draw(ids),
        type=draw(st.text(_TEXT, min_size=1, max_size=30).filter(lambda kind: not is_own_type(kind))),
        source=draw(st.text(_TEXT, min_size=1, max_size=30).filter(OWN_SOURCE.__ne__)),
        data=value,
        datacontenttype=kind,
        **optional,
    )
