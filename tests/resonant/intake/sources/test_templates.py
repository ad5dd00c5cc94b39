"""Templates: what they take from a request, and what they refuse."""

import json

import pytest
from starlette.datastructures import Headers

from resonant.errors import InvalidEvent
from resonant.intake.sources.templates import FORM, MOST_CHARACTERS, Received, Template

BODY = json.dumps(
    {"a": {"b": [{"c/d": "x"}, 2]}, "": 5, "m~n": True, "none": None, "empty": "", "nested": {}, "ü": "é /?"}
).encode()


def received(body=BODY, kind="application/json", **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Received(Headers({"content-type": kind} | given), body)


def render(text, request=None, **options):
    return Template.parse(text).render(request or received(x_event="push", x_empty=""), **options)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("fixed", "fixed"),
        ("", ""),
        ("com.{header.X-Event}.{data/a/b/1|no}", "com.push.2"),
        ("{data/a/b/0/c~1d}", "x"),
        ("{data/}", "5"),
        ("{data/m~0n}", "true"),
        ("{data/ü}", "%C3%A9%20%2F%3F"),
        ("{data/missing|a default}", "a default"),
        ("{data/none|none}", "none"),
        ("{data/empty|}", ""),
        ("{header.x-empty|none}", "none"),
        ("{header.x-missing|/|}", "/|"),
        ("{data/a/b/2|beyond}", "beyond"),
        ("{data/a/b/-|no index}", "no index"),
        ("{data/a/b/01|no index}", "no index"),
        ("{data/a/b/0/c~1d/deeper|no}", "no"),
    ],
)
def test_takes_headers_and_values_of_the_body_or_a_default(text, value):
    assert render(text) == value


def test_values_are_encoded_and_a_slash_only_where_it_means_something():
    request = received(b'{"name": "shop/\\u00fc {data/secret} %41&"}')
    assert render("{data/name}", request) == "shop%2F%C3%BC%20%7Bdata%2Fsecret%7D%20%2541%26"
    assert render("/x/{data/name}", request, safe="/").startswith("/x/shop/%C3%BC")


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("7", "7"),
        ("-0.5", "-0.5"),
        ("12345678901234567890.123456789", "12345678901234567890.123456789"),
        ("false", "false"),
    ],
)
def test_numbers_keep_their_value(number, value):
    assert render("{data/n}", received(f'{{"n": {number}}}'.encode())) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{data/missing}", "the request has no data/missing"),
        ("{data/none}", "the request has no data/none"),
        ("{data/empty}", "the request has no data/empty"),
        ("{header.x-missing}", "the request has no header.x-missing"),
        ("{data/nested}", "data/nested is not a single value"),
        ("{data/a/b|x}", r"data/a/b is not a single value"),
    ],
)
def test_a_missing_value_is_refused_by_its_name(text, said):
    with pytest.raises(InvalidEvent, match=said):
        render(text)


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{data}", "{body/x}", "{header.}", "{header.x y}", "{data/a", "a}b", "{{data/a}}", "{data/{data/a}}",
             "{env.HOME}", "{data/a|{data/b}}", "{0}"]
)  # fmt: skip
def test_a_brace_that_belongs_to_no_value_is_refused(text):
    with pytest.raises(ValueError, match=r"a value is \{header.NAME\} or \{data/POINTER\}"):
        Template.parse(text)


def test_a_form_has_fields_and_the_first_of_several_counts():
    request = received(b"text=a+b%21&n=1&n=2&blank=", f"{FORM}; charset=utf-8")
    assert render("{data/text}.{data/n}.{data/blank|no}", request) == "a%20b%21.1.no"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"not json", "application/json"),
        (b"", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"a=%FF", FORM),
        ("a=ü".encode(), FORM),
        (b"a=1&" * 1_001, FORM),
    ],
    ids=["text", "empty", "deep", "not UTF-8", "not ASCII", "too many"],
)
def test_of_a_body_that_cannot_be_read_only_defaults_remain(body, kind):
    assert render("{data/a|none}", received(body, kind)) == "none"
    with pytest.raises(InvalidEvent):
        render("{data/a}", received(body, kind))


def test_text_with_a_lone_surrogate_is_refused():
    with pytest.raises(InvalidEvent, match="data/a has a lone surrogate"):
        render("{data/a}", received(b'{"a": "\\ud800"}'))


def test_a_header_that_is_given_twice_is_refused():
    twice = Received(Headers(raw=[(b"x-event", b"a"), (b"x-event", b"b")]), b"")
    with pytest.raises(InvalidEvent, match="several headers x-event"):
        render("{header.x-event|no}", twice)


def test_the_text_has_a_limit_with_its_values():
    longest = "x" * MOST_CHARACTERS
    assert render("{data/a}", received(json.dumps({"a": longest}).encode())) == longest
    with pytest.raises(InvalidEvent, match="more than 1,024 characters"):
        render("{data/a}.", received(json.dumps({"a": longest}).encode()))


def test_knows_whether_it_takes_a_header_and_how_it_begins():
    template = Template.parse("com.{data/a}.{header.x}")
    assert (template.start, template.has_header) == ("com.", True)
    template = Template.parse("{data/a}.x")
    assert (template.start, template.has_header) == ("", False)
