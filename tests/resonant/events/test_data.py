"""The data of events: JSON, text, bytes or absent."""

import base64
import json
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resonant.errors import InvalidEvent
from resonant.events import ABSENT, Event
from resonant.input_lines import event_from_fields, parse_event
from support.lines import body, line, refusal, unhurried


def test_the_body_is_compact_utf_8_with_keys_in_the_order_given():
    assert body('{"z": 1, "a" : {"é": "\\u00e9", "b":\n[ ] }, "m": "a \\"b\\" \\n/"}') == (
        '{"z":1,"a":{"é":"é","b":[]},"m":"a \\"b\\" \\n/"}'
    )


def test_of_a_key_given_twice_the_last_counts():
    assert body('{"a": 1, "b": 2, "a": 3}') == '{"a":3,"b":2}'


@pytest.mark.parametrize("data", ["NaN", "Infinity", "-Infinity", "[1, NaN]"])
def test_numbers_that_json_does_not_have_are_refused(data):
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


def test_exact_numbers_survive_beside_every_other_kind_of_json_value():
    data = '{"b":[0.12345678901234567890,"é\\n",null,true,{}],"a":{"":[[]],"k\\"":1.00000000000000000001},"é":-7}'
    assert body(data) == data


@pytest.mark.parametrize(
    "number", ["1e400", "-1e309", "1e99999999999999999999", "[0.5, 1e400]", "1e-99999999999999999999"]
)
def test_a_number_that_receivers_would_read_as_infinity_or_nothing_is_refused(number):
    assert "out of range" in refusal(line(number))


def test_a_whole_number_of_more_digits_than_python_reads_is_refused():
    assert body("7" * 4300) == "7" * 4300
    assert refusal(line("7" * 4301)) == "a number has more than 4,300 digits"


def test_a_producer_may_give_decimals():
    data = {"price": Decimal("19.90"), "lines": (Decimal("1E+3"), 2), 3: Decimal(0)}
    assert Event(type="t", source="s", data=data).body == b'{"price":19.90,"lines":[1E+3,2],"3":0}'


NO_JSON = [
    float("nan"),
    float("inf"),
    Decimal("NaN"),
    [Decimal("Infinity")],
    object(),
    [b"x"],
    {1, 2},
    {(1, 2): 3},
    [Decimal(1), object()],
    "\udc80",
    pytest.param(10**5000, id="more digits than Python writes"),
]


@pytest.mark.parametrize("data", NO_JSON)
def test_values_that_are_not_json_are_refused(data):
    with pytest.raises(InvalidEvent, match="data"):
        Event(type="t", source="s", data=data)


def test_data_that_contains_itself_is_refused():
    circle = []
    circle.append(circle)
    for data in (circle, [Decimal(1), circle]):
        with pytest.raises(InvalidEvent):
            Event(type="t", source="s", data=data)


@pytest.mark.parametrize("fields", [None, 7, "x", [], {1: 2, "a": 3}, {None: 1, 2: 2}])
def test_fields_that_are_not_an_event_are_refused(fields):
    with pytest.raises(InvalidEvent):
        event_from_fields(fields)


JSON_TYPES = [
    "application/json",
    "application/JSON; charset=UTF-8",
    "text/json",
    "application/vnd.x+json ;v=1",
]
OTHER_TYPES = [
    "text/plain",
    "application/xml",
    "application/jsonl",
    "json/x",
    'text/plain; x="/json"',
    "application/x+jsonp",
]


@pytest.mark.parametrize("datacontenttype", JSON_TYPES)
@pytest.mark.parametrize("data", ["x", 1.5, None, {"a": []}])
def test_data_of_a_json_type_is_any_json_value(datacontenttype, data):
    event = Event(type="t", source="s", data=data, datacontenttype=datacontenttype)
    assert (event.form, event.body) == ("json", json.dumps(data, separators=(",", ":")).encode())


def test_application_json_is_the_type_of_data_without_one():
    of_json = Event(id="1", type="t", source="s", data=1, datacontenttype="application/json")
    assert of_json.datacontenttype is None
    assert of_json == Event(id="1", type="t", source="s", data=1)
    assert of_json.digest == Event(type="t", source="s", data=1).digest
    for data in (b"1", ABSENT):
        kept = Event(type="t", source="s", data=data, datacontenttype="application/json")
        assert kept.datacontenttype == "application/json"


@pytest.mark.parametrize("datacontenttype", OTHER_TYPES)
def test_data_of_another_type_is_text(datacontenttype):
    event = Event(type="t", source="s", data='"größe"\n\x00', datacontenttype=datacontenttype)
    assert (event.form, event.body) == ("text", b'"gr\xc3\xb6\xc3\x9fe"\n\x00')
    for data, kind in ((1, "a number"), (None, "null"), ({}, "an object")):
        with pytest.raises(InvalidEvent, match=f"^data must be a string, not {kind}: its type is"):
            Event(type="t", source="s", data=data, datacontenttype=datacontenttype)


def test_text_may_be_empty_which_is_not_absent():
    assert Event(type="t", source="s", data="", datacontenttype="text/plain").form == "text"
    assert Event(type="t", source="s", data=b"").form == "bytes"
    for datacontenttype in (None, "text/plain"):
        absent = Event(type="t", source="s", datacontenttype=datacontenttype)
        assert (absent.form, absent.body, absent.datacontenttype) == ("absent", b"", datacontenttype)


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_text_with_a_lone_surrogate_is_refused(kind):
    with pytest.raises(InvalidEvent, match=r"^data contains a lone surrogate"):
        Event(type="t", source="s", data="\ud800", datacontenttype=kind)


@pytest.mark.parametrize(
    "datacontenttype", ["text/plain; charset=%s", "application/json;Charset=%s", 'a/b; x=y; charset="%s"']
)
def test_text_and_json_are_sent_as_utf_8_and_must_say_so(datacontenttype):
    for charset in ("utf-8", "UTF-8", "utf8"):
        Event(type="t", source="s", data="é", datacontenttype=datacontenttype % charset)
    Event(type="t", source="s", data="e", datacontenttype=datacontenttype % "us-ascii")
    Event(type="t", source="s", data=b"\xe9", datacontenttype=datacontenttype % "iso-8859-1")
    for charset, data in (("us-ascii", "é"), ("iso-8859-1", "e"), ("utf-16", "e")):
        with pytest.raises(InvalidEvent, match="but data is sent as UTF-8"):
            Event(type="t", source="s", data=data, datacontenttype=datacontenttype % charset)


@pytest.mark.parametrize("datacontenttype", [None, "application/json", "text/plain", "image/png"])
def test_bytes_are_sent_as_they_are(datacontenttype):
    event = Event(type="t", source="s", data=b"\x00\xff{", datacontenttype=datacontenttype)
    assert (event.form, event.body, event.datacontenttype) == ("bytes", b"\x00\xff{", datacontenttype)


def test_the_limit_of_size_counts_bytes_in_every_form():
    for data in ("éé", b"1234"):
        Event(type="t", source="s", data=data, datacontenttype="text/plain", max_bytes=4)
        with pytest.raises(InvalidEvent, match="data is 4 bytes, the limit is 3") as refused:
            Event(type="t", source="s", data=data, datacontenttype="text/plain", max_bytes=3)
        assert (refused.value.code, refused.value.pointer) == ("too_large", "/data")


def encoded(text, **attributes):
    return json.dumps({"type": "t", "source": "s", "data_base64": text, **attributes})


@unhurried
@given(st.binary(max_size=60))
def test_data_base64_stands_for_any_bytes(data):
    event = parse_event(encoded(base64.b64encode(data).decode()))
    assert (event.form, event.body, event.datacontenttype) == ("bytes", data, None)


NOT_STRICT = [
    "A",
    "AA",
    "AA=",
    "AAE",
    "AAE==",
    "AAE=\n",
    "AA E",
    "AAE=AAE=",
    "AAF=",
    "A===",
    "====",
    "-_8=",
    "é",
    "AAE=x",
    7,
    [],
    {},
]


@pytest.mark.parametrize("text", NOT_STRICT)
def test_data_base64_that_is_not_strict_is_refused(text):
    assert refusal(encoded(text)).startswith("data_base64 ")


def test_data_beside_data_base64_is_refused():
    assert refusal(encoded("AAE=", data=None)) == "data and data_base64 cannot both be given"
    assert parse_event(encoded(None, data=1)).body == b"1"
    assert parse_event(encoded(None)).form == "absent"


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
