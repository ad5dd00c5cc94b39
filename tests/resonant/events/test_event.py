"""Events: attributes, ids and digests."""

import json
import pickle
import time
import uuid
from dataclasses import FrozenInstanceError, asdict
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.errors import InvalidEvent
from resonant.events import Event, EventKey, Form, new_event_id, rfc3339
from resonant.input_lines import event_from_fields, parse_event
from support.events import changed
from support.lines import line, refusal, unhurried

IDS = [
    "a",
    "evt_0197-x",
    "!#$%&'()*+,-./:;<=>?@[]^_`{|}~",
    "x" * 255,
    " ",
    "a b",
    "é",
    "注文 42",
    "👩\u200d👧",
]
NO_IDS = ["", "a\n", "a\x00", "a\x7f", "\x9f", "\ud800", "\uffff", "x" * 256, 7, 1.5, True, [], {}]
TEXTS = [
    "x" * 255,
    "größe",
    "注文",
    "क्\u200dष",
    "👩\u200d👩\u200d👧",
    "a b",
    "a\u00a0b",
    "\U0001fffd",
    "\u0378",
]
NO_TEXTS = [
    "",
    "x" * 256,
    "a\nb",
    "\x00",
    "\x7f",
    "\x9f",
    "\ud800",
    "\ufdd0",
    "\uffff",
    "\U0010fffe",
    7,
    False,
    ["x"],
]
TIMES = [
    "2026-01-31T12:00:00Z",
    "2026-01-31t12:00:00z",
    "2026-01-31T12:00:00.123456789Z",
    "2024-02-29T23:59:59+05:45",
    "2026-01-31T12:00:00-00:00",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-12:00",
    # Leap seconds: the last second of a month in UTC.
    "2016-12-31T23:59:60Z",
    "2016-12-31t23:59:60.5z",
    "1990-12-31T15:59:60-08:00",
    "2017-01-01T05:44:60+05:45",
    "2024-02-29T23:59:60Z",
    "9999-12-31T23:59:60Z",
]
NO_TIMES = [
    "now",
    "2026-01-31",
    "2026-01-31T12:00:00",
    "2026-01-31 12:00:00Z",
    "20260131T120000Z",
    "2026-W05-6T12:00:00Z",
    "2026-01-31T12Z",
    "2026-01-31T12:00Z",
    "2026-01-31T12:00:00,5Z",
    "2026-01-31T12:00:00.Z",
    "2026-01-31T12:00:00+01",
    "2026-01-31T12:00:00+01:60",
    "2026-01-31T12:00:00+01:00:30",
    "2026-01-31T12:00:00+24:00",
    "2026-01-31T24:00:00Z",
    "2026-02-29T12:00:00Z",
    "2026-13-01T12:00:00Z",
    "2016-12-31T23:59:61Z",
    "2016-12-30T23:59:60Z",
    "2016-12-31T23:58:60Z",
    "2016-12-31T22:59:60Z",
    "2016-12-31T23:59:60+01:00",
    "2023-02-29T23:59:60Z",
    "9999-12-31T23:59:60-01:00",
    "0001-01-01T00:59:60+01:00",
    "٢٠٢٦-01-31T12:00:00Z",
    "2026-01-31T12:00:00.123456\u0665Z",
    "2026-01-31T12:00:00Z ",
]


def attributes(ids, texts, times):
    texts = [(name, value) for name in ("type", "source", "subject") for value in texts]
    return [*(("id", value) for value in ids), *texts, *(("time", value) for value in times)]


@pytest.mark.parametrize(("name", "value"), attributes(IDS, TEXTS, TIMES))
def test_a_valid_attribute_is_kept_as_it_was_written(name, value):
    assert getattr(parse_event(line(**{name: value})), name) == value


@pytest.mark.parametrize(("name", "value"), attributes(NO_IDS, NO_TEXTS, NO_TIMES))
def test_an_invalid_attribute_is_refused_by_name(name, value):
    message = refusal(line(**{name: value}))
    assert message.startswith(f"{name} ")
    if name == "time":
        assert message == f"time {value!r} is not an RFC 3339 time, such as 2026-01-31T12:00:00Z"


@pytest.mark.parametrize("name", ["id", "time", "subject"])
def test_a_refusal_points_to_the_attribute_and_has_a_code(name):
    with pytest.raises(InvalidEvent, match=f"^{name} must be a string, not a number$") as refused:
        parse_event(line(**{name: 7}))
    assert (refused.value.pointer, refused.value.code) == (f"/{name}", "wrong_type")
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (str(copy), copy.pointer, copy.code) == (str(refused.value), f"/{name}", "wrong_type")


moments = st.floats(0, 2**40 / 1000, allow_nan=False)


def uuid_of(event_id):
    prefix, _, digits = event_id.partition("_")
    assert prefix == "evt"
    assert digits == str(uuid.UUID(digits))
    return uuid.UUID(digits)


@unhurried
@given(moments)
def test_a_new_id_is_a_uuid_of_version_7_with_a_prefix(now):
    identity = uuid_of(new_event_id(now))
    assert identity.int >> 76 & 0xF == 7
    assert identity.int >> 62 & 0b11 == 0b10
    assert identity.variant == uuid.RFC_4122
    assert abs((identity.int >> 80) - now * 1000) < 1.001


def test_the_time_of_a_new_id_is_in_milliseconds_and_4096ths_of_one():
    identity = uuid_of(new_event_id(1769860800.1875))
    assert identity.int >> 80 == 1769860800187
    assert identity.int >> 64 & 0xFFF == 2048


@unhurried
@given(moments, st.floats(1e-6, 1e6))
def test_ids_sort_by_their_time(now, later):
    assert new_event_id(now) < new_event_id(now + later)


def test_ids_of_one_instant_differ_and_the_wall_clock_is_the_default():
    assert len({new_event_id(1769860800.0) for _ in range(1_000)}) == 1_000
    before = time.time()
    made_at = (uuid_of(new_event_id()).int >> 80) / 1000
    assert before - 0.002 <= made_at <= time.time()


tricky = st.sampled_from(["", "a", "b", "\n", '"', '", "', "null", "é", "\ud800"])
texts = st.none() | st.sampled_from(["a", "b", "null", "json"])
events = st.builds(
    Event.from_stored,
    id=st.sampled_from("xy"),
    type=tricky,
    source=tricky,
    body=st.sampled_from([b"1", b"1.0", b'"\n"', b"\n1", b""]),
    time=st.none() | tricky,
    subject=st.none() | tricky,
    form=st.sampled_from(get_args(Form)),
    datacontenttype=texts,
    dataschema=texts,
    extensions_json=st.sampled_from(
        [None, '{"a":1}', '{"a":"1"}', '{"a":true}', '{"recordedtime":"x"}', '{"a":1,"recordedtime":"x"}']
    ),
    traceparent=texts,
    tracestate=texts,
    webhook_id=texts,
)


def content(event):
    # As JSON, since 1 == True in Python.
    extensions = json.dumps(
        {name: value for name, value in event.extensions.items() if name != "recordedtime"}
    )
    no_content = {"id": "", "traceparent": None, "tracestate": None, "webhook_id": None}
    return asdict(event) | no_content | {"extensions_json": extensions}


@unhurried
@given(events, events)
def test_the_digest_is_equal_exactly_if_the_content_is(one, other):
    assert (one.digest == other.digest) == (content(one) == content(other))


@unhurried
@given(
    events,
    st.sampled_from(["type", "source", "time", "subject", "datacontenttype", "dataschema", "body"]),
    tricky,
)
def test_a_change_of_any_attribute_changes_the_digest(event, name, value):
    other = changed(event, **{name: b"changed" if name == "body" else f"changed{value}"})
    assert other.digest != event.digest
    assert len(event.digest) == 64


# A store compares new events with the digests that it has, so they must not change.
STORED_DIGESTS = [
    (
        '{"id":"1","type":"com.example.paid","source":"/shop","data":1}',
        "3709f44d06e1692e86a2ff284d91dce6ee74587c09908d32eba75d6c88ff0a3f",
    ),
    (
        '{"id":"1","type":"com.example.paid","source":"/shop","data":null,"time":"2026-01-31T12:00:00Z","subject":"7"}',
        "728de038f5bc3c9f5f51eaee3b508c194475da84a66fdcd1ebd52c9f23177371",
    ),
    (
        '{"id":"1","type":"größe","source":"/注文","data":{"b":1.10,"a":["é",12345678901234567890.5]}}',
        "e9afa2a069b2897eeef3251dac878ae66e49c6a5db93870aefd60ca6ad62f2d1",
    ),
    (
        '{"id":"1","type":"com.example.paid","source":"/","data":"","specversion":"1.0","datacontenttype":"application/json"}',
        "0bab2d857d37215a1541bff358087b1b5fc16151ebab0d2b41f26da0f5e38317",
    ),
]


@pytest.mark.parametrize(("text", "digest"), STORED_DIGESTS)
def test_an_event_without_new_parts_keeps_its_digest(text, digest):
    assert parse_event(text).digest == digest
    assert parse_event(text[:-1] + ',"recordedtime":"2026-01-31T12:00:00Z"}').digest == digest


@pytest.mark.parametrize(
    ("part", "digest"),
    [
        (
            {"datacontenttype": "application/JSON"},
            "96f0eacf5085e0ce845134e98ed2ef41f61fa091d6fe3f2a575ca6d709352c80",
        ),
        (
            {"dataschema": "https://example.com/order.json"},
            "504c171d0cb17b2208684561be799a9ae4b98fb692e140ce9b87b58d5fab729e",
        ),
        (
            {"partitionkey": "7", "urgent": True, "attempt": -3},
            "45424b5287412fe205fb3136ad305870a228f6119351316995a9f0f4341a349d",
        ),
        ({"data_base64": "AAE="}, "2de3eb45f250d7c0bdcfd515bb20dd81fc823e21aaaca2f180aa2edcaabd6701"),
        (
            {"data": "x", "datacontenttype": "text/plain"},
            "6941ec7c5da458c00b8334e2410e44001fe308376b21f260422a11f4ef7c88a9",
        ),
        (
            {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
            "aa843b09bf435ff58ca81170ef940081c14f66350a038c532c616e851e19d7ac",
        ),
    ],
)
def test_the_digest_of_new_parts_never_changes(part, digest):
    fields = {"type": "com.example.paid", "source": "/shop", "id": "1", **part}
    assert event_from_fields(fields).digest == digest


def test_the_digest_does_not_depend_on_how_the_line_was_written_nor_on_the_id():
    assert parse_event('{"type":"t","source":"s","data":{"a":"\\u00e9","b":1.10}}').digest == (
        parse_event('{ "data": {"a": "é", "b": 1.1}, "source": "s", "type": "t", "id": "other" }').digest
    )


def test_the_order_of_keys_in_data_is_content():
    assert parse_event(line('{"a":1,"b":2}')).digest != parse_event(line('{"b":2,"a":1}')).digest


def test_an_event_is_identified_by_its_source_and_id():
    event = Event(type="t", source="/s", id="7")
    assert event.identity == EventKey(source="/s", id="7") == ("/s", "7")
    assert event.identity != Event(type="t", source="/other", id="7").identity


def test_extensions_are_sorted_by_name_and_null_means_absent():
    event = Event(type="t", source="/s", extensions={"zone": "eu", "a": 1, "gone": None, "b": False})
    assert list(event.extensions.items()) == [("a", 1), ("b", False), ("zone", "eu")]
    assert event.extensions_json == '{"a":1,"b":false,"zone":"eu"}'
    assert Event(type="t", source="/s", extensions={"gone": None}).extensions_json is None
    assert Event(type="t", source="/s").extensions == {}


@pytest.mark.parametrize(
    ("extensions", "expires_at"),
    [
        ({"expirytime": "2026-01-31T12:00:00.25Z"}, 1769860800.25),
        ({"expirytime": "2026-01-31t13:00:00+01:00", "a": 1}, 1769860800.0),
        ({"expirytime": "2016-12-31T23:59:60Z"}, 1483228799.0),
        ({"a": '"expirytime"'}, None),
        ({}, None),
    ],
)
def test_an_event_expires_at_its_expirytime(extensions, expires_at):
    assert Event(type="t", source="/s", extensions=extensions).expires_at == expires_at


def test_a_moment_is_written_in_utc_to_the_millisecond():
    assert rfc3339(1769860800.25) == "2026-01-31T12:00:00.250Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert parse_event(line(time=rfc3339(1769860800.25))).time == "2026-01-31T12:00:00.250Z"


def test_an_event_cannot_be_changed_or_show_its_data_and_equals_the_one_that_is_rebuilt():
    event = Event(
        type="t",
        source="/s",
        data="secret",
        id="evt_1",
        time="2026-01-31T12:00:00Z",
        subject="7",
        datacontenttype="text/plain",
        dataschema="urn:x",
        extensions={"a": 1},
    )
    rebuilt = Event.from_stored(**asdict(event))
    assert rebuilt == event == pickle.loads(pickle.dumps(event))
    assert hash(rebuilt) == hash(event)
    with pytest.raises(FrozenInstanceError):
        event.id = "other"
    assert "secret" not in repr(event)
