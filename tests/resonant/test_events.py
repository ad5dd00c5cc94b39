"""What becomes of an input line: an event without loss, or one clear refusal."""

import json
import pickle
import time
import uuid
from dataclasses import FrozenInstanceError, asdict
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resonant.errors import InvalidEvent
from resonant.events import Event, encode_data, new_event_id, rfc3339
from resonant.input_lines import event_from_fields, parse_event
from support.events import changed

unhurried = settings(deadline=None)


def line(data="1", **attributes):
    """Write a valid input line with this JSON text as data; attributes replace or (as None) remove others."""
    given = {"type": "com.example.paid", "source": "/shop", **attributes}
    members = [
        f"{json.dumps(name)}: {json.dumps(value)}" for name, value in given.items() if value is not None
    ]
    return "{" + ", ".join([*members, f'"data": {data}']) + "}"


def body(data):
    return parse_event(line(data)).body.decode()


def refusal(text, **options):
    with pytest.raises(InvalidEvent) as refused:
        parse_event(text, **options)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


# --- the line ---------------------------------------------------------------------------------------------------


def test_a_line_with_every_key_is_kept_whole():
    event = parse_event(
        b'{"id": "evt-1", "type": "com.example.paid", "source": "/shop/1", "data": {"a": [1, null, true]},'
        b' "time": "2026-01-31T12:00:00.5+01:00", "subject": "order 7"}'
    )
    assert event == Event.from_stored(
        id="evt-1",
        type="com.example.paid",
        source="/shop/1",
        body=b'{"a":[1,null,true]}',
        time="2026-01-31T12:00:00.5+01:00",
        subject="order 7",
    )


def test_a_line_needs_no_more_than_type_source_and_data():
    event = parse_event(line())
    assert (event.type, event.source, event.time, event.subject) == ("com.example.paid", "/shop", None, None)
    assert event.id.startswith("evt_")


@pytest.mark.parametrize("name", ["id", "time", "subject", "type"])
def test_null_means_not_given(name):
    event = parse_event(
        f'{{"{name}": null, "source": "/shop", "data": 1}}', default_type="com.example.default"
    )
    assert event.type == "com.example.default"
    assert event.id.startswith("evt_")


def test_the_type_of_the_line_wins_over_the_default():
    assert parse_event(line(), default_type="com.example.default").type == "com.example.paid"


@pytest.mark.parametrize("name", ["type", "source", "data"])
def test_a_missing_key_is_named(name):
    fields = {"type": "t", "source": "s", "data": 1}
    del fields[name]
    assert refusal(json.dumps(fields)).startswith(f"{name} is missing")


def test_data_may_be_null():
    assert body("null") == "null"


def test_an_unknown_key_is_named_with_those_that_are_known():
    message = refusal(line(typ="x", zone="y"))
    assert message == "unknown key 'typ'; known are data, id, source, subject, time, type"


def test_a_very_long_unknown_key_is_not_repeated_in_full():
    assert "kkkk" in refusal(line(**{"k" * 100_000: 1}))


def test_what_a_cloudevent_carries_besides_is_accepted_and_implied():
    event = parse_event(line(id="1", specversion="1.0", datacontenttype="application/json"))
    assert event == parse_event(line(id="1"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("specversion", "0.3"),
        ("specversion", 1.0),
        ("specversion", [[["1.0"]] * 1000]),
        ("datacontenttype", "text/xml"),
    ],
)
def test_a_cloudevent_that_would_be_sent_as_something_else_is_refused(name, value):
    assert name in refusal(line(**{name: value}))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("null", "null"),
        ("true", "a boolean"),
        ("12", "a number"),
        ("1.5", "a number"),
        ("1.50000000000000000000001", "a number"),
        ('"x"', "a string"),
        ("[]", "an array"),
    ],
)
def test_a_line_that_is_no_object_says_what_it_is(text, kind):
    assert refusal(text) == f"not a JSON object but {kind}"


@pytest.mark.parametrize("text", ["", " ", "{", "{} {}", "{'a': 1}", '{"a": 1,}', '{"a": "\t"}', "\x00"])
def test_a_line_that_is_no_json_says_where(text):
    assert refusal(text).startswith("not JSON: ")
    assert refusal(text.encode()).startswith("not JSON: ")


def test_a_byte_order_mark_is_skipped_but_only_one_and_only_in_front():
    assert parse_event(line(id="1").encode("utf-8-sig")) == parse_event(line(id="1"))
    assert parse_event("\ufeff" + line(id="1")) == parse_event(line(id="1"))
    refusal("\ufeff\ufeff" + line())
    refusal(line() + "\ufeff")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_bytes_that_are_not_utf_8_are_refused(encoding):
    encoded = '{"type": "t", "source": "s", "data": "café"}'.encode(encoding)
    assert refusal(encoded).startswith(("not UTF-8: ", "not JSON: "))


def test_a_surrogate_hidden_in_bytes_is_not_utf_8():
    assert refusal(b'{"type": "t", "source": "s", "data": "\xed\xa0\x80"}').startswith("not UTF-8: ")


@pytest.mark.parametrize("data", [r'"\ud800"', r'{"\udfff": 1}', '"\udc80"'])
def test_a_lone_surrogate_in_data_is_refused(data):
    assert refusal(line(data)) == "data holds a lone surrogate, which is no UTF-8 text"


def test_a_pair_of_surrogates_is_one_character():
    assert body(r'"\ud83d\ude00"') == '"😀"'


@pytest.mark.parametrize(
    "deep",
    ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000],
    ids=["arrays", "objects"],
)
def test_nesting_too_deep_to_read_is_refused(deep):
    assert "nested too deeply" in refusal(line(deep))
    assert "nested too deeply" in refusal(deep)


def test_nesting_too_deep_to_write_is_refused():
    deep = Decimal("0.1")
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidEvent, match="nested too deeply"):
        encode_data(deep)


def test_the_limit_of_size_counts_the_body_in_bytes_and_includes_itself():
    exactly_12 = line(r'"\u00e9é\u00e9éé"')
    assert len(parse_event(exactly_12, max_bytes=12).body) == 12
    assert refusal(exactly_12, max_bytes=11) == (
        "data is 12 bytes, the limit is 11 (RESONANT_MAX_EVENT_BYTES raises it)"
    )


def test_a_mebibyte_is_the_limit_unless_told_otherwise():
    parse_event(line(f'"{"x" * (2**20 - 2)}"'))
    assert "1,048,577 bytes" in refusal(line(f'"{"x" * (2**20 - 1)}"'))


# --- the attributes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_id", ["a", "evt_0197-x", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "x" * 255])
def test_an_id_is_any_visible_ascii(event_id):
    assert parse_event(line(id=event_id)).id == event_id


@pytest.mark.parametrize(
    "event_id", ["", " ", "a b", "é", "a\n", "a\x00", "a\x7f", "\ud800", "x" * 256, 7, 1.5, True, [], {}]
)
def test_an_id_that_could_not_travel_in_a_header_is_refused(event_id):
    assert refusal(line(id=event_id)).startswith("id ")


@pytest.mark.parametrize("name", ["type", "source", "subject"])
@pytest.mark.parametrize(
    "value",
    [
        "x" * 255,
        "größe",
        "注文",
        "क्\u200dष",
        "👩\u200d👩\u200d👧",
        "a b",
        "a\u00a0b",
        "\U0001fffd",
        "\u0378",
    ],
)
def test_other_attributes_are_any_text_of_255_characters(name, value):
    assert getattr(parse_event(line(**{name: value})), name) == value


@pytest.mark.parametrize("name", ["type", "source", "subject"])
@pytest.mark.parametrize(
    "value",
    [
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
    ],
)
def test_what_cloudevents_keeps_out_of_a_text_is_refused(name, value):
    assert refusal(line(**{name: value})).startswith(f"{name} ")


@pytest.mark.parametrize(
    "text",
    [
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
    ],
)
def test_a_time_is_kept_as_it_was_written(text):
    assert parse_event(line(time=text)).time == text


@pytest.mark.parametrize(
    "text",
    [
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
    ],
)
def test_a_time_that_is_not_rfc_3339_is_refused(text):
    assert refusal(line(time=text)) == f"time {text!r} is not RFC 3339, as in 2026-01-31T12:00:00Z"


def test_a_time_that_is_a_number_is_refused():
    assert refusal(line(time=1769860800)) == "time must be a string, not a number"


# --- the body -----------------------------------------------------------------------------------------------------


def test_the_body_is_compact_utf_8_with_keys_in_the_order_given():
    assert body('{"z": 1, "a" : {"é": "\\u00e9", "b":\n[ ] }, "m": "a \\"b\\" \\n/"}') == (
        '{"z":1,"a":{"é":"é","b":[]},"m":"a \\"b\\" \\n/"}'
    )


def test_of_a_key_given_twice_the_last_counts():
    assert body('{"a": 1, "b": 2, "a": 3}') == '{"a":3,"b":2}'


@pytest.mark.parametrize("data", ["NaN", "Infinity", "-Infinity", "[1, NaN]"])
def test_what_python_reads_and_json_does_not_know_is_refused(data):
    assert refusal(line(data)).startswith("not JSON: ")


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("0.1", "0.1"),
        ("1.10", "1.1"),
        ("-0.0", "-0.0"),
        ("1e5", "100000.0"),
        ("1E+22", "1e+22"),
        ("5e-324", "5e-324"),
        ("12345678901234567890123", "12345678901234567890123"),
        ("9007199254740993", "9007199254740993"),
        ("9007199254740993.0", "9007199254740993.0"),
        ("12345678901234567890.123456789", "12345678901234567890.123456789"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("-3.14159265358979323846264338327950288", "-3.14159265358979323846264338327950288"),
        ("1e-400", "1E-400"),
    ],
)
def test_a_number_keeps_its_value(written, sent):
    assert body(written) == sent


@unhurried
@given(st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
@example("2.2250738585072014e-308")
@example("1.7976931348623157e308")
def test_every_number_keeps_its_value_or_is_refused(number):
    try:
        sent = body(f"[{number}]")
    except InvalidEvent:
        assert abs(Decimal(number)) > Decimal("1.797e308")
    else:
        assert Decimal(sent[1:-1]) == Decimal(number)


def test_digits_beyond_a_float_survive_among_all_else_that_json_knows():
    data = '{"b":[0.12345678901234567890,"é\\n",null,true,{}],"a":{"":[[]],"k\\"":1.00000000000000000001},"é":-7}'
    assert body(data) == data


@pytest.mark.parametrize("number", ["1e400", "-1e309", "1e99999999999999999999", "[0.5, 1e400]"])
def test_a_number_that_receivers_would_read_as_infinity_is_refused(number):
    assert "out of range" in refusal(line(number))


def test_a_number_of_absurd_exponent_is_refused():
    assert "out of range" in refusal(line("1e-99999999999999999999"))


def test_a_whole_number_of_more_digits_than_python_reads_is_refused():
    assert body("7" * 4300) == "7" * 4300
    assert refusal(line("7" * 4301)) == "a number has more than 4,300 digits"


def test_a_producer_may_give_decimals():
    data = {"price": Decimal("19.90"), "lines": (Decimal("1E+3"), 2), 3: Decimal(0)}
    assert Event(type="t", source="s", data=data).body == b'{"price":19.90,"lines":[1E+3,2],"3":0}'


@pytest.mark.parametrize(
    "data",
    [
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        [Decimal("Infinity")],
        object(),
        b"x",
        {1, 2},
        {(1, 2): 3},
        [Decimal(1), object()],
        "\udc80",
        pytest.param(10**5000, id="more digits than Python writes"),
    ],
)
def test_values_that_are_no_json_are_refused(data):
    with pytest.raises(InvalidEvent, match="data"):
        Event(type="t", source="s", data=data)


def test_data_that_contains_itself_is_refused():
    circle = []
    circle.append(circle)
    for data in (circle, [Decimal(1), circle]):
        with pytest.raises(InvalidEvent):
            Event(type="t", source="s", data=data)


@pytest.mark.parametrize("fields", [None, 7, "x", [], {1: 2, "a": 3}, {None: 1, 2: 2}])
def test_fields_that_are_no_event_are_refused(fields):
    with pytest.raises(InvalidEvent):
        event_from_fields(fields)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@unhurried
@given(json_values, st.sampled_from([None, 2]), st.booleans())
def test_data_arrives_as_it_was_given_however_it_was_written(data, indent, ascii_only):
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    event = parse_event(line(text).encode())
    assert event.body == json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    assert parse_event(line(event.body.decode())).body == event.body


# --- nothing but InvalidEvent -------------------------------------------------------------------------------------


def read_or_refuse(text):
    try:
        event = parse_event(text)
    except InvalidEvent as refused:
        message = str(refused)
    else:
        message = ""
        json.loads(event.body)
        assert all(32 < ord(character) < 127 for character in event.id)
    assert "\n" not in message
    message.encode()


@unhurried
@given(st.binary() | st.text(st.characters(), max_size=50))
def test_arbitrary_bytes_and_text_raise_nothing_but_invalid_event(text):
    read_or_refuse(text)


keys = st.sampled_from(["id", "type", "source", "data", "time", "subject", "specversion", "datacontenttype"])


@unhurried
@given(st.dictionaries(keys | st.text(max_size=3), json_values | st.text(st.characters(), max_size=5)))
def test_arbitrary_json_objects_raise_nothing_but_invalid_event(fields):
    read_or_refuse(json.dumps(fields))


@unhurried
@given(
    st.text(st.characters(), max_size=6),
    st.text(st.characters(), max_size=6),
    st.text(st.characters(), max_size=6),
)
def test_arbitrary_attributes_raise_nothing_but_invalid_event(event_id, event_type, subject):
    read_or_refuse(line(id=event_id, type=event_type, subject=subject))


@unhurried
@given(st.integers(0, 200), st.binary(max_size=3))
def test_damaged_lines_raise_nothing_but_invalid_event(position, damage):
    whole = line('{"a": [1.5, 1e5, -3, "\\u00e9é"]}', id="1", time="2026-01-31T12:00:00Z").encode()
    read_or_refuse(whole[:position] + damage + whole[position + len(damage) :])


# --- ids ----------------------------------------------------------------------------------------------------------

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
def test_ids_sort_by_the_time_of_their_making(now, later):
    assert new_event_id(now) < new_event_id(now + later)


def test_ids_are_all_different_even_within_one_instant():
    assert len({new_event_id(1769860800.0) for _ in range(100_000)}) == 100_000


def test_the_wall_clock_is_the_default_of_an_id():
    before = time.time()
    made_at = (uuid_of(new_event_id()).int >> 80) / 1000
    assert before - 0.002 <= made_at <= time.time()


# --- the digest ---------------------------------------------------------------------------------------------------

tricky = st.sampled_from(["", "a", "b", "\n", '"', '", "', "null", "é", "\ud800"])
events = st.builds(
    Event.from_stored,
    id=st.sampled_from("xy"),
    type=tricky,
    source=tricky,
    body=st.sampled_from([b"1", b"1.0", b'"\n"', b"\n1", b""]),
    time=st.none() | tricky,
    subject=st.none() | tricky,
)


def content(event):
    return asdict(event) | {"id": ""}


@unhurried
@given(events, events)
def test_the_digest_is_the_same_exactly_where_the_content_is(one, other):
    assert (one.digest == other.digest) == (content(one) == content(other))


@unhurried
@given(events, st.sampled_from(["type", "source", "time", "subject", "body"]), tricky)
def test_a_change_of_any_attribute_changes_the_digest(event, name, value):
    other = changed(event, **{name: b"changed" if name == "body" else f"changed{value}"})
    assert other.digest != event.digest
    assert len(event.digest) == 64


def test_the_digest_does_not_depend_on_how_the_line_was_written_nor_on_the_id():
    assert parse_event('{"type":"t","source":"s","data":{"a":"\\u00e9","b":1.10}}').digest == (
        parse_event('{ "data": {"a": "é", "b": 1.1}, "source": "s", "type": "t", "id": "other" }').digest
    )


def test_the_order_of_keys_in_data_is_content():
    assert parse_event(line('{"a":1,"b":2}')).digest != parse_event(line('{"b":2,"a":1}')).digest


# --- the rest -----------------------------------------------------------------------------------------------------


def test_an_event_cannot_be_changed_and_does_not_show_its_data():
    event = parse_event(line('"secret"'))
    with pytest.raises(FrozenInstanceError):
        event.id = "other"
    assert "secret" not in repr(event)


def test_a_moment_is_written_in_utc_to_the_millisecond():
    assert rfc3339(1769860800.25) == "2026-01-31T12:00:00.250Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert parse_event(line(time=rfc3339(1769860800.25))).time == "2026-01-31T12:00:00.250Z"


# --- the constructor ----------------------------------------------------------------------------------------------


def test_an_event_is_built_from_values_and_encodes_its_data():
    event = Event(type="order.paid", source="/shop", data={"total": 10})
    assert event.body == b'{"total":10}'
    assert event.id.startswith("evt_")
    assert event == Event.from_stored(event.id, "order.paid", "/shop", b'{"total":10}')


def test_an_event_cannot_be_built_from_an_invalid_value():
    good = {"id": "evt_1", "type": "order.paid", "source": "/shop", "data": 1, "subject": "order 7"}
    for name, value in {
        "id": "a b",
        "type": "",
        "source": None,
        "data": {1, 2},
        "time": "now",
        "subject": 7,
    }.items():
        with pytest.raises(InvalidEvent, match=name):
            Event(**good | {name: value})


def test_a_rebuilt_event_equals_the_one_that_was_built_also_after_a_copy():
    event = Event(type="t", source="/s", data=1, id="evt_1", time="2026-01-31T12:00:00Z", subject="7")
    rebuilt = Event.from_stored(**asdict(event))
    assert rebuilt == event == pickle.loads(pickle.dumps(event))
    assert hash(rebuilt) == hash(event)
