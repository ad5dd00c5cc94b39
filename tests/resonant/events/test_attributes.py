"""The attributes of CloudEvents beside id, type, source, time and subject: which values are accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.errors import InvalidEvent
from resonant.events import RESERVED_NAMES, Event
from resonant.input_lines import parse_event
from support.lines import line, refusal, unhurried
from support.wire_examples import SPECIAL_NAMES

MEDIA_TYPES = [
    "application/json; charset=utf-8",
    "APPLICATION/JSON",
    "application/vnd.example+json;v=1",
    "application/cloudevents+json",
    'x/json; a="q;\\" \'"; b=c',
]
NO_MEDIA_TYPES = [
    "json",
    "a/",
    "/b",
    "a/b/c",
    "a b/json",
    " a/json",
    "a/json ",
    "a/json;",
    "a/json; b",
    "a/json; b=",
    'a/json; b="c',
    "a/jsoné",
    "a/json\r\nx: y",
    "a/json;\tb=c",
    "",
    "a/json; b=" + "c" * 255,
    7,
    ["a/json"],
]
URIS = [
    "https://example.com/order.json",
    "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
    "HTTP://x#y",
    "a+b.c-1:/",
]
NO_URIS = [
    "/order.json",
    "order.json",
    "//example.com/x",
    "https:",
    "1a:b",
    "https://example.com/a b",
    "urn:é",
    "",
    7,
]


EXPIRIES = ["2026-01-31T12:00:00Z", "2026-01-31t12:00:00.5+05:45"]
NO_EXPIRIES = ["tomorrow", "2026-01-31", "", 1769860800, True]


def named(**values):
    return [(name, value) for name, each in values.items() for value in each]


@pytest.mark.parametrize(("name", "value"), named(datacontenttype=MEDIA_TYPES, dataschema=URIS))
def test_a_media_type_and_an_absolute_uri_are_kept_as_they_were_written(name, value):
    assert getattr(parse_event(line(**{name: value})), name) == value


@pytest.mark.parametrize(
    ("name", "value"), named(datacontenttype=NO_MEDIA_TYPES, dataschema=NO_URIS, expirytime=NO_EXPIRIES)
)
def test_an_attribute_of_another_form_is_refused_by_name(name, value):
    assert refusal(line(**{name: value})).startswith(f"{name} ")


@pytest.mark.parametrize("value", EXPIRIES)
def test_an_expirytime_is_kept_as_it_was_written(value):
    assert parse_event(line(expirytime=value)).extensions == {"expirytime": value}


@pytest.mark.parametrize("name", ["a", "0", "7up", "partitionkey", "x" * 20])
@pytest.mark.parametrize("value", ["", "größe 😀", " a ", "x" * 1024, True, False, 0, 2**31 - 1, -(2**31)])
def test_an_extension_attribute_is_kept(name, value):
    kept = parse_event(line(**{name: value})).extensions[name]
    assert kept == value
    assert type(kept) is type(value)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("Subject", "subject"),
        ("event_id", "eventid"),
        ("content-type", "contenttype"),
        ("partition key", "partitionkey"),
        ("x" * 21, "x" * 20),
        ("é", None),
        ("", None),
        ("٣", None),
        ("a\n", "a"),
        ("a/~b", "ab"),
        ("id\x00", "id"),
    ],
)
@pytest.mark.parametrize("value", ["x", None])
def test_a_name_that_cloudevents_do_not_allow_is_refused_with_a_suggestion(name, suggestion, value):
    with pytest.raises(InvalidEvent) as refused:
        Event(type="t", source="s", extensions={name: value})
    message = str(refused.value)
    assert message.startswith(f"{name!r} is not the name of an attribute")
    assert ("did you mean" in message) == (suggestion is not None)
    assert suggestion is None or f"did you mean {suggestion!r}?" in message
    assert refused.value.code == "invalid_name"
    assert refused.value.pointer == "/" + name.replace("~", "~0").replace("/", "~1")


def test_a_name_that_is_not_text_is_refused():
    with pytest.raises(InvalidEvent, match=r"^7 is not the name"):
        Event(type="t", source="s", extensions={7: "x"})


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_an_attribute_of_cloudevents_is_not_an_extension(name):
    with pytest.raises(InvalidEvent, match=f"^{name} is not an extension attribute$"):
        Event(type="t", source="s", extensions={name: "x"})


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1.5, "not this number"),
        (5.0, "not this number"),
        (2**31, "not this number"),
        (-(2**31) - 1, "not this number"),
        ([], "not an array"),
        ({"a": 1}, "not an object"),
        ("x" * 1025, "1 to 1,024 characters, not 1,025"),
        ("a\nb", "control character"),
        ("\ufffe", "noncharacter"),
    ],
)
def test_a_value_that_an_extension_cannot_have_is_refused(value, why):
    message = refusal(line(payload=value))
    assert message.startswith("payload ")
    assert why in message


def test_an_event_has_at_most_32_extensions():
    many = {f"a{number}": number for number in range(32)}
    assert parse_event(line(**many)).extensions == many
    assert refusal(line(**many, b=1)) == "an event can have 32 extension attributes, not 33"


def test_the_extensions_have_at_most_8_kib_of_utf_8_together():
    most = {f"a{number}": "é" * 511 for number in range(8)}
    assert parse_event(line(**most)).extensions == most
    assert refusal(line(**most, bb="x")) == "the extension attributes have 8,195 bytes, the limit is 8,192"


@unhurried
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in SPECIAL_NAMES),
        st.booleans()
        | st.integers(-(2**31), 2**31 - 1)
        | st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]), max_size=30),
        max_size=10,
    )
)
def test_every_set_of_extensions_arrives_as_it_was_given(extensions):
    event = parse_event(line(**extensions))
    assert event.extensions == extensions
    assert [*map(type, event.extensions.values())] == [type(extensions[name]) for name in event.extensions]
    assert event == Event(id=event.id, type=event.type, source=event.source, data=1, extensions=extensions)
