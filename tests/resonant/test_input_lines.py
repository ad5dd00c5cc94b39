"""How events are read from input lines."""

import json
import math
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resonant import input_lines
from resonant.errors import InvalidEvent
from resonant.events import Event, encode_data
from resonant.input_lines import decode_json, event_from_fields, parse_event
from support.lines import body, line, refusal


def test_a_line_with_every_key_is_kept_whole():
    event = parse_event(
        b'{"id": "evt-1", "type": "com.example.paid", "source": "/shop/1", "data": {"a": [1, null, true]},'
        b' "time": "2026-01-31T12:00:00.5+01:00", "subject": "order 7", "specversion": "1.0",'
        b' "datacontenttype": "application/vnd.order+json", "dataschema": "urn:order", "zone": "eu", "attempt": 2}'
    )
    assert event == Event.from_stored(
        id="evt-1",
        type="com.example.paid",
        source="/shop/1",
        body=b'{"a":[1,null,true]}',
        time="2026-01-31T12:00:00.5+01:00",
        subject="order 7",
        datacontenttype="application/vnd.order+json",
        dataschema="urn:order",
        extensions_json='{"attempt":2,"zone":"eu"}',
    )


def test_a_line_needs_no_more_than_type_and_source():
    event = parse_event('{"type": "com.example.paid", "source": "/shop"}')
    assert event == Event.from_stored(event.id, "com.example.paid", "/shop", b"", form="absent")
    assert event.id.startswith("evt_")


@pytest.mark.parametrize(
    "name", ["id", "time", "subject", "type", "datacontenttype", "dataschema", "data_base64", "zone"]
)
def test_null_means_not_given(name):
    event = parse_event(
        f'{{"{name}": null, "source": "/shop", "data": 1}}', default_type="com.example.default"
    )
    assert event.type == "com.example.default"
    assert event.extensions == {}
    assert event.id.startswith("evt_")
    assert parse_event(line(), default_type="com.example.default").type == "com.example.paid"


@pytest.mark.parametrize("name", ["type", "source"])
def test_a_missing_key_is_named(name):
    fields = {"type": "t", "source": "s", "data": 1}
    del fields[name]
    assert refusal(json.dumps(fields)).startswith(f"{name} is missing")
    with pytest.raises(InvalidEvent) as refused:
        event_from_fields(fields)
    assert (refused.value.code, refused.value.pointer) == ("missing", f"/{name}")


@pytest.mark.parametrize(
    ("event_type", "source", "member"),
    [
        ("resonant.endpoint.paused", "/resonant", "type"),
        ("resonant.endpoint.paused", "/resonant/", "type"),
        ("resonant.anything", "https://shop.example.com", "type"),
        ("com.example.paid", "/resonant", "source"),
    ],
)
def test_the_types_and_the_source_of_our_own_events_are_refused(event_type, source, member):
    fields = {"type": event_type, "source": source}
    for members, options in ((fields, {}), ({"source": source}, {"default_type": event_type})):
        with pytest.raises(InvalidEvent, match="reserved for Resonant's own events") as refused:
            parse_event(json.dumps(members), **options)
        assert (refused.value.code, refused.value.pointer) == ("invalid_value", f"/{member}")
    assert parse_event(json.dumps(fields), may_be_own=True).type == event_type


@pytest.mark.parametrize("event_type", ["resonant", "resonants.paid", "com.resonant.paid", "Resonant.paid"])
def test_types_that_only_look_like_those_of_our_own_events_are_accepted(event_type):
    assert parse_event(line(type=event_type, source="/resonant/")).type == event_type


@pytest.mark.parametrize(("data", "kept"), [("null", "null"), (r'"\ud83d\ude00"', '"😀"')])
def test_data_may_be_null_and_a_pair_of_surrogates_is_one_character(data, kept):
    assert body(data) == kept


def test_an_unknown_key_is_an_extension_attribute():
    assert parse_event(line(typ="x", zone=7)).extensions == {"typ": "x", "zone": 7}


def test_of_several_bad_keys_the_first_is_named():
    for first, second in (("Aa", "Bb"), ("Bb", "Aa")):
        assert refusal(line(**{first: 1, second: 1})).startswith(f"{first!r} ")


def test_a_very_long_bad_key_is_shortened():
    found = refusal(line(**{"k" * 100_000: 1}))
    assert "kkkk" in found
    assert len(found) < 1_000


@pytest.mark.parametrize("version", ["1.0", None])
def test_the_version_of_cloudevents_may_be_given(version):
    assert parse_event(line(id="1", specversion=version)) == parse_event(line(id="1"))


@pytest.mark.parametrize("value", ["0.3", 1.0, [[["1.0"]] * 1000], ""])
def test_another_version_of_cloudevents_is_refused(value):
    given = json.dumps({"type": "t", "source": "s", "specversion": value})
    assert refusal(given) == "specversion must be '1.0' if it is given"


# The examples of the CloudEvents JSON format 1.0.2 (section 3.2), with the content type and the body that it gives for HTTP.
# They share these members.
SHARED = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "source": "/mycontext",
    "time": "2018-04-05T17:31:00Z",
    "comexampleextension1": "value",
    "comexampleothervalue": 5,
}
EXAMPLES = [
    (
        {
            "id": "A234-1234-1234",
            "datacontenttype": "application/vnd.apache.thrift.binary",
            "data_base64": "AP8=",
        },
        ("bytes", "application/vnd.apache.thrift.binary", b"\x00\xff"),
    ),
    (
        {
            "id": "B234-1234-1234",
            "unsetextension": None,
            "datacontenttype": "application/xml",
            "data": '<much wow="xml"/>',
        },
        ("text", "application/xml", b'<much wow="xml"/>'),
    ),
    (
        {
            "subject": None,
            "id": "C234-1234-1234",
            "datacontenttype": "application/json",
            "data": {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True},
        },
        ("json", None, b'{"appinfoA":"abc","appinfoB":123,"appinfoC":true}'),
    ),
    (
        {"subject": None, "id": "C234-1234-1234", "datacontenttype": "application/json", "data": 1.5},
        ("json", None, b"1.5"),
    ),
    (
        {"subject": None, "id": "D234-1234-1234", "data": "I'm just a string"},
        ("json", None, b'"I\'m just a string"'),
    ),
    ({"id": "D234-1234-1234", "data_base64": "eyAieHl6IjogMTIzIH0="}, ("bytes", None, b'{ "xyz": 123 }')),
]


@pytest.mark.parametrize(("fields", "expected"), EXAMPLES)
def test_the_examples_of_the_json_format_are_read_as_it_says(fields, expected):
    event = parse_event(json.dumps(SHARED | fields))
    assert (event.form, event.datacontenttype, event.body) == expected
    assert (event.id, event.time, event.subject) == (fields["id"], "2018-04-05T17:31:00Z", None)
    assert event.extensions == {"comexampleextension1": "value", "comexampleothervalue": 5}


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
def test_a_line_that_is_not_an_object_is_refused_with_its_kind(text, kind):
    assert refusal(text) == f"must be a JSON object, not {kind}"


@pytest.mark.parametrize("text", ["", " ", "{", "{} {}", "{'a': 1}", '{"a": 1,}', '{"a": "\t"}', "\x00"])
def test_a_line_that_is_not_json_is_refused(text):
    assert refusal(text).startswith("not JSON: ")
    assert refusal(text.encode()).startswith("not JSON: ")


def test_a_byte_order_mark_is_skipped_but_only_one_and_only_in_front():
    assert parse_event(line(id="1").encode("utf-8-sig")) == parse_event(line(id="1"))
    assert parse_event("\ufeff" + line(id="1")) == parse_event(line(id="1"))
    refusal("\ufeff\ufeff" + line())
    refusal(line() + "\ufeff")


@pytest.mark.parametrize(
    "text",
    [
        *('{"type": "café"}'.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-32", "latin-1")),
        b'{"type": "\xed\xa0\x80"}',  # a surrogate
    ],
)
def test_bytes_that_are_not_utf_8_are_refused(text):
    assert refusal(text).startswith(("not UTF-8: ", "not JSON: "))


@pytest.mark.parametrize("data", [r'"\ud800"', r'{"\udfff": 1}', '"\udc80"'])
def test_a_lone_surrogate_in_data_is_refused(data):
    assert refusal(line(data)) == "data contains a lone surrogate, which is not valid UTF-8"


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


def test_the_limit_of_size_counts_the_body_in_bytes():
    exactly_12 = line(r'"\u00e9é\u00e9éé"')
    assert len(parse_event(exactly_12, max_bytes=12).body) == 12
    assert refusal(exactly_12, max_bytes=11) == (
        "data is 12 bytes, the limit is 11 (RESONANT_MAX_EVENT_BYTES raises it)"
    )


def test_the_limit_of_size_is_a_mebibyte_by_default():
    parse_event(line(f'"{"x" * (2**20 - 2)}"'))
    assert "1,048,577 bytes" in refusal(line(f'"{"x" * (2**20 - 1)}"'))


@given(
    st.from_regex(
        r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18}([eE][+-]?[0-9]{1,3})?|[eE][+-]?[0-9]{1,3})", fullmatch=True
    )
)
@example("1e5")
@example("-0e5")
@example("0e400")
@example("1e-400")
@example("40e-321")
@example("2.2250738e-308")
@example("1.797693e308")
@example("0.50")
@example("9007199254740993.0")
@example("999999999999999.9")
@example("0.1234567890123456789")
def test_a_decimal_keeps_its_exact_value_however_short_it_is(literal):
    if math.isinf(float(literal)):
        with pytest.raises(InvalidEvent, match="out of range"):
            decode_json(literal)
        return
    found, is_exact = decode_json(literal), Decimal(repr(float(literal))) == Decimal(literal)
    assert isinstance(found, float if is_exact else Decimal)
    assert Decimal(str(found)) == Decimal(literal)


def test_short_numbers_with_an_exponent_are_read_without_a_slow_decimal(monkeypatch):
    monkeypatch.setattr(input_lines, "Decimal", None)
    assert decode_json("[1e5, -1E-7, 0e5, 0.0E-400, 1.25e+10]") == [1e5, -1e-7, 0, 0, 1.25e10]
