"""Recorded requests: where the headers end, and what is the body."""

import pytest

from resonant.intake.sources.recorded import read_request

HEAD = b"POST /sources/github?a=1&b HTTP/1.1\r\nHost: example.com\r\nX-Event:  push \r\n"


@pytest.mark.parametrize("feed", [b"\r\n", b"\n"])
@pytest.mark.parametrize("body", [b'{"a": 1}\n', b"", b"a\n\nb", b"a\r\n\r\nb\n\r\nc", bytes(range(256))])
def test_the_body_is_what_follows_the_first_empty_line(feed, body):
    received, query = read_request(HEAD.replace(b"\r\n", feed) + feed + body)
    assert (received.body, query) == (body, "a=1&b")
    assert dict(received.headers) == {"host": "example.com", "x-event": "push"}


def test_without_a_request_line_there_is_no_query():
    received, query = read_request(b"X-Event: push\n\nbody")
    assert (received.headers["x-event"], received.body, query) == ("push", b"body", "")


def test_the_body_ends_as_its_length_says():
    received, _ = read_request(b"Content-Length: 4\n\nbody\n")
    assert received.body == b"body"


def test_a_header_that_is_repeated_stays_so():
    received, _ = read_request(b"X: 1\nx: 2\n\n")
    assert received.headers.getlist("x") == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "headers, an empty line and the body"),
        (b"X: 1\n", "headers, an empty line and the body"),
        (b"GET / HTTP/1.1\nX: 1\n\n", "is not a header"),
        (b"X: 1\n folded\n\n", "is not a header"),
        (b"no colon\n\n", "is not a header"),
        (b"\xff: 1\n\n", "is not a header"),
    ],
)
def test_what_is_no_request_is_refused(content, said):
    with pytest.raises(ValueError, match=said):
        read_request(content)
