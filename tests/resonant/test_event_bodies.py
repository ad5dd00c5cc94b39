"""Bodies of events, and input that is refused."""

import json
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resonant.errors import InvalidEvent
from resonant.events import Event
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


def test_digits_beyond_a_float_survive_among_all_else_that_json_knows():
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


@pytest.mark.parametrize(
    "data",
    [
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
    ],
)
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
