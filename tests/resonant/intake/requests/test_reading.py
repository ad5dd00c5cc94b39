"""How events are read from requests: in each mode, with the rules and the words of the command line."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from resonant.events import Event
from resonant.intake.limits import IntakeLimits
from resonant.intake.problems import Problem, Refusal
from resonant.intake.requests.reading import mode_of, most_bytes, read_events
from resonant.sinks.wire import message
from support.hostile_lines import characters, damaged_lines, good_lines
from support.lines import line, parsed
from support.posting import BATCH, LINES, STRUCTURED
from support.wire_examples import EXAMPLES, TRACEPARENT, attributes, events

SMALL = IntakeLimits(event_bytes=2_000, batch_events=5)
EVENT = {"ce-type": "com.example.paid", "ce-source": "/shop"}
MODES = ("binary", "structured")


def read(body=b"", *, limits=SMALL, raw=(), **headers):
    """Read the events of a request; in the names of headers, an underscore stands for a dash."""
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    headers = Headers(raw=[*given, *raw])
    return read_events(mode_of(headers), headers, body, limits)


def read_binary(body=b"", **headers):
    [found] = read(body, **{name.replace("-", "_"): value for name, value in (EVENT | headers).items()})
    return found


def problem(body=b"", **headers):
    with pytest.raises(Problem) as caught:
        read(body, **headers)
    return caught.value


def result(found):
    return (found.detail, found.code, found.pointer) if isinstance(found, Refusal) else found


def same(found, expected):
    """Return whether two results are the same, apart from ids that were made up."""
    if isinstance(found, Event) and isinstance(expected, Event) and expected.id.startswith("evt_"):
        return (found.digest, found.traceparent) == (expected.digest, expected.traceparent)
    return found == expected


# --- the words of the command line ----------------------------------------------------------------------------------

any_lines = (
    good_lines
    | damaged_lines
    | st.binary(max_size=100)
    | st.text(characters, max_size=50).map(lambda text: text.encode(errors="surrogatepass"))
)


@given(any_lines)
def test_structured_mode_accepts_the_same_events_as_a_command_and_gives_the_same_reasons(text):
    [found] = read(text, content_type=STRUCTURED)
    assert same(result(found), parsed(text, max_bytes=SMALL.event_bytes))


@given(st.lists(any_lines.map(lambda text: text.replace(b"\n", b" ")), max_size=5))
def test_lines_are_read_as_a_command_reads_them(lines):
    found = read(b"\n".join(lines), content_type=LINES)
    expected = [parsed(each, max_bytes=SMALL.event_bytes) for each in lines if each and not each.isspace()]
    assert len(found) == len(expected)
    assert all(same(result(each), other) for each, other in zip(found, expected, strict=True))
    assert [each.index for each in found if isinstance(each, Refusal)] == [
        index for index, each in enumerate(expected) if not isinstance(each, Event)
    ]


def is_decoded(result):
    """Return whether a result is an event, or the refusal of an event that could be decoded."""
    return isinstance(result, Event) or (
        result[1] not in {"not_json", "too_large"} and "out of range" not in result[0]
    )


@given(st.lists(good_lines | damaged_lines, max_size=5))
def test_a_batch_is_read_as_a_command_reads_its_events(texts):
    results = {
        text.removeprefix(b"\xef\xbb\xbf"): parsed(text, max_bytes=SMALL.event_bytes) for text in texts
    }
    expected = {text: result for text, result in results.items() if is_decoded(result)}
    found = read(b"[%s]" % b" , ".join(expected), content_type=BATCH)
    assert len(found) == len(expected)
    assert all(same(result(each), other) for each, other in zip(found, expected.values(), strict=True))


NO_BATCHES = [
    b"",
    b"[",
    b"{}",
    b"[1",
    b"[1,]",
    b"[,1]",
    b"[1 2]",
    b"[1]]",
    b"[1] x",
    b"\xff[]",
    b"[" * 10_000,
    b"[NaN]",
    b"null",
]


@pytest.mark.parametrize("body", NO_BATCHES)
def test_a_batch_that_is_not_a_json_array_is_refused(body):
    assert problem(body, content_type=BATCH).status in {400, 413, 422}


def test_a_batch_that_cannot_be_decoded_is_refused_with_the_position():
    problem_ = problem(f"[{line()}, {line('1e999')}]".encode(), content_type=BATCH)
    assert problem_.errors[0].index == 1
    assert "out of range" in problem_.detail


@pytest.mark.parametrize("kind", [BATCH, LINES])
def test_a_batch_may_be_empty_and_has_a_limit_of_events(kind):
    text = {
        BATCH: lambda number: f"[{','.join([line()] * number)}]",
        LINES: lambda number: f"{line()}\n" * number,
    }[kind]
    assert read(text(0).encode(), content_type=kind) == []
    assert len(read(text(5).encode(), content_type=kind)) == 5
    too_many = problem(text(6).encode(), content_type=kind)
    assert (too_many.status, too_many.limit) == (413, 5)


def test_empty_lines_take_no_memory():
    body = b"\n" * 1_000_000
    tracemalloc.start()
    try:
        assert read(body, content_type=LINES) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_line_has_the_same_limit_as_on_the_command_line():
    long = line(json.dumps("x" * 100_000)).encode()
    [found] = read(long, content_type=LINES)
    assert found == Refusal(
        0, "longer than 73,536 bytes (RESONANT_MAX_EVENT_BYTES raises the limit)", "too_large"
    )


# --- binary mode ----------------------------------------------------------------------------------------------------


def comparable(event):
    """Return what a receiver reads of an event; without a body, it cannot tell empty from absent."""
    return attributes(event, "binary"), event.body


@given(events(), st.sampled_from(MODES))
def test_an_event_is_read_as_we_send_it(event, mode):
    headers, body = message(event, mode)
    [found] = read(body, raw=headers, limits=IntakeLimits())
    assert comparable(found) == comparable(event)
    if mode == "structured":
        assert found == event


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_read_as_we_send_it(name, mode):
    headers, body = message(EXAMPLES[name], mode)
    [found] = read(body, raw=headers)
    assert comparable(found) == comparable(EXAMPLES[name])


@pytest.mark.parametrize(
    ("kind", "body", "form"),
    [
        ("application/json", b'{"a": 1}', "json"),
        ("application/json; charset=utf-8", b'{"a": 1}', "json"),
        ("application/vnd.shop+json", b"[1]", "json"),
        ("text/plain", "Grüße".encode(), "text"),
        ("Text/Plain", b"abc", "text"),
        ("application/xml", b"<a/>", "text"),
        ("image/svg+xml", b"<svg/>", "text"),
        ("application/yaml; charset=UTF-8", b"a: 1", "text"),
        ("text/plain", b"\xff", "bytes"),
        ("text/plain; charset=iso-8859-1", b"abc", "bytes"),
        ("text/plain; charset=us-ascii", b"\xc3\xa9", "bytes"),
        ("image/png", b"abc", "bytes"),
        ("application/octet-stream", b"\0", "bytes"),
        (None, b"abc", "bytes"),
        ("application/json", b"", "absent"),
        ("text/plain", b"", "absent"),
        (None, b"", "absent"),
    ],
)
def test_the_content_type_decides_what_the_body_is(kind, body, form):
    found = read_binary(body, **({"content-type": kind} if kind else {}))
    assert found.form == form
    assert found.datacontenttype == (None if kind == "application/json" and body else kind)
    assert found.body == (b'{"a":1}' if form == "json" and body.startswith(b"{") else body)


def test_a_body_that_is_not_the_json_it_claims_to_be_is_refused():
    found = read_binary(b"{", **{"content-type": "application/json"})
    assert (found.code, found.pointer) == ("not_json", "/data")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),  # the example of the specification
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("%2541", "%41"),  # decoded once
        ('"a \\"b\\" %41"', 'a "b" A'),
        ("Grüße", "Grüße"),  # UTF-8 that is not encoded
        ("%22x%22", '"x"'),
    ],
)
def test_a_header_is_unquoted_and_decoded_once(value, expected):
    assert read_binary(**{"ce-subject": value}).subject == expected


@pytest.mark.parametrize("value", ["%FF", "%C3", "a%ED%A0%80", "%C0%AF"])
def test_a_header_that_is_not_utf_8_is_refused(value):
    found = read_binary(**{"ce-subject": value})
    assert (found.detail, found.pointer) == ("subject is not percent-encoded UTF-8", "/subject")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ce-data", "data is the body in binary mode, not a header"),
        (
            "ce-datacontenttype",
            "datacontenttype is the header Content-Type in binary mode, not ce-datacontenttype",
        ),
        (
            "ce-my-name",
            "'my-name' is not the name of an attribute, which has 1 to 20 of a-z and 0-9; did you mean 'myname'?",
        ),
    ],
)
def test_a_header_with_an_invalid_attribute_name_is_refused(name, words):
    assert read_binary(**{name: "x"}).detail == words


def test_a_header_that_is_given_twice_is_refused():
    twice = [(b"ce-type", b"a"), (b"ce-source", b"/shop"), (b"ce-type", b"b")]
    [found] = read(raw=twice)
    assert found.detail == "type is given twice"


# --- the mode -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        (STRUCTURED, "structured"),
        ("Application/CloudEvents+JSON; charset=utf-8", "structured"),
        (BATCH, "batch"),
        (LINES, "lines"),
    ],
)
def test_the_content_type_decides_the_mode(kind, mode):
    headers = Headers({"content-type": kind})
    assert mode_of(headers) == mode
    assert most_bytes(mode, IntakeLimits()) == (4 * 2**20 + 2**16 if mode == "structured" else 8 * 2**20)


def test_attributes_in_headers_make_it_binary_except_beside_a_cloudevent():
    for kind in ("application/json", LINES, "text/plain"):
        assert mode_of(Headers(EVENT | {"content-type": kind})) == "binary"
    assert mode_of(Headers(EVENT)) == "binary"
    assert mode_of(Headers(EVENT | {"content-type": STRUCTURED})) == "structured"


OTHER_TYPES = [
    "application/json",
    "application/x-www-form-urlencoded",
    "text/plain",
    "application/cloudevents+xml",
    f"{STRUCTURED}; charset=utf-16",
    "",
]


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_other_media_types_are_refused_with_those_that_are_read(kind):
    refused = problem(content_type=kind)
    assert refused.status == 415
    assert STRUCTURED in refused.detail
    assert refused.headers["Accept"] == f"{STRUCTURED}, {BATCH}, {LINES}"


def test_two_content_types_are_refused():
    assert (
        problem(raw=[(b"content-type", STRUCTURED.encode()), (b"content-type", b"text/plain")]).status == 415
    )


# --- headers that stand for attributes ------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["order-7", '"order-7"'])
def test_an_event_without_an_id_gets_the_idempotency_key(key):
    [found] = read(line().encode(), content_type=STRUCTURED, idempotency_key=key)
    assert found.id == "order-7"
    [found] = read(line(id="1").encode(), content_type=STRUCTURED, idempotency_key=key)
    assert found.id == "1"
    assert read_binary(**{"idempotency-key": key}).id == "order-7"


@pytest.mark.parametrize("key", ["", '""', "a b", "é", "x" * 256, 'a"b', '"a', "a\\b"])
@pytest.mark.parametrize("event_id", [None, "1"])
def test_an_idempotency_key_that_cannot_be_an_id_is_refused_also_if_it_is_not_used(key, event_id):
    refused = problem(line(id=event_id).encode(), content_type=STRUCTURED, idempotency_key=key)
    assert refused.status == 400
    assert refused.detail.startswith("Idempotency-Key must have 1 to 255 visible ASCII characters")


@pytest.mark.parametrize("kind", [BATCH, LINES])
def test_a_batch_has_no_idempotency_key(kind):
    assert problem(content_type=kind, idempotency_key="1").status == 400


def test_two_idempotency_keys_are_refused():
    keys = [(b"idempotency-key", b"1"), (b"idempotency-key", b"2")]
    assert problem(line().encode(), content_type=STRUCTURED, raw=keys).status == 400


def test_the_trace_of_the_request_is_that_of_its_events_unless_they_have_one():
    other = TRACEPARENT.replace("4bf9", "aaaa")
    trace = {"traceparent": TRACEPARENT, "raw": [(b"tracestate", b"a=1"), (b"tracestate", b"b=2")]}
    own, given = read(f"{line(traceparent=other)}\n{line()}".encode(), content_type=LINES, **trace)
    assert (own.traceparent, own.tracestate) == (other, None)
    assert (given.traceparent, given.tracestate) == (TRACEPARENT, "a=1,b=2")
    assert read_binary(traceparent=TRACEPARENT).traceparent == TRACEPARENT


# --- the cases of CloudEvents' conformance suite (cloudevents/conformance: HTTP binding, and JSON format) ------------

CORE = {"specversion": "1.0", "id": "1", "type": "io.cloudevents.test", "source": "https://cloudevents.io"}


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_the_binary_message_of_the_suite_is_read(kind):
    names = {
        "ce-specversion": "1.0",
        "ce-type": "com.example.someevent",
        "ce-time": "2018-04-05T03:56:24Z",
        "ce-id": "1234-1234-1234",
        "ce-source": "/mycontext/subcontext",
    }
    found = read_binary(b'{\n    "message": "Hello World!"\n}', **names, **{"content-type": kind})
    assert [found.type, found.time, found.id, found.source] == [*names.values()][1:]
    assert found.body == b'{"message":"Hello World!"}'


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"datacontenttype": None, "dataschema": None, "subject": None, "time": None},
        {
            "datacontenttype": "text/plain",
            "dataschema": "https://cloudevents.io/dataschema",
            "subject": "tests",
        },
        *({"time": f"2018-04-05T17:31:00{end}"} for end in ("Z", ".000000000Z", "+01:00", "-01:00")),
        {"source": "#fragment"},
        {"datacontenttype": "text/plain", "data": "Simple text"},
        {"extinteger": 10, "extboolean": True, "exturiref": "//authority/path", "extbinary": "TWE="},
    ],
)
def test_the_valid_events_of_the_suite_are_read(members):
    [found] = read(json.dumps([CORE | members]).encode(), content_type=BATCH)
    assert found.id == "1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, "")
            for name in ("id", "type", "source", "specversion", "datacontenttype", "dataschema", "subject")
        ),
        ("specversion", "0.9"),
        ("time", "lunchtime"),
        *(("time", f"2018-04-05T18:31{end}") for end in ("Z", ":00X", ":00+25:00", ":00+xx:00", ":00+05")),
        ("datacontenttype", "xyz"),
        ("id", 25),
        ("id", {"xyz": "abc"}),
        ("MyExtension", "bad"),
        ("my.extension", "bad"),
        ("extension", 1.5),
        ("type", None),
        ("source", None),
    ],
)
def test_the_invalid_events_of_the_suite_are_refused(name, value):
    """Except those without id or specversion, which we make up, as in a line."""
    [found, good] = read(json.dumps([CORE | {name: value}, CORE]).encode(), content_type=BATCH)
    assert isinstance(found, Refusal)
    assert found.pointer == f"/{name}"
    assert good.id == "1"
