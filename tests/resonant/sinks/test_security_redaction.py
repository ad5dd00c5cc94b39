"""What of a receiver's answer, and of an error's text, is taken out before it is kept: the rules, case by case."""

from __future__ import annotations

import base64
import time
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.errors import UnexpectedStatus
from resonant.events import Event
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import READ_BYTES, HttpSink
from resonant.sinks.redaction import EXAMINED_BYTES, Redactor, without_credentials
from resonant.testing import Action, Receiver, respond
from support.redaction import safe_message

EVENT = Event(type="order.paid", source="/shop", data={"order": 42})
SIGNING = "whsec_" + base64.b64encode(b"signing secret, 24 bytes").decode()
CREDENTIALS = {
    "Authorization: Bearer abc123def": "Authorization: Bearer ***",
    "got header authorization=Bearer-abc": "got header authorization=***",
    "Authorization: Basic dXNlcjpwYXNz": "Authorization: Basic ***",
    "bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln is not valid": "bearer *** is not valid",
    '{"password": "two words", "user": "me"}': '{"password": "***", "user": "me"}',
    "{'api_key': 'abc'}": "{'api_key': '***'}",
    r'"{\"token\":\"abc\"}"': r'"{\"token\":\"***\"}"',
    "user=me&password=abc&x=1": "user=me&password=***&x=1",
    "client_secret=abc;scope=all": "client_secret=***;scope=all",
    "X-Api-Key: 9f8e7d6c": "X-Api-Key: ***",
    "access_token: aBcDeFgHiJkL": "access_token: ***",
    "password: hunter2": "password: ***",
    "see https://user:pw@example.com/x": "see https://***@example.com/x",
    "see https://user:p@w@example.com/x": "see https://***@example.com/x",
    "postgresql://user:pw@db/events": "postgresql://***@db/events",
    "postgresql+psycopg://user:p@w/x?y@db/events": "postgresql+psycopg://***@db/events",
    "no answer from 'amqps://user:p/w?x@mq:5671'": "no answer from 'amqps://***@mq:5671'",
}
ORDINARY = [
    "invalid token: expired",
    "Bearer token missing",
    "Basic authentication required",
    "the password must be set",
    "signature does not match",
    "order 4711 is unknown",
    "see https://example.com/@team?page=2",
    "postgresql://db/events",
    "postgresql://db/events for anna@example.com",
    "see https://example.com/users/anna@example.com",
    "sk_live_abcdef stands alone",
]


@pytest.mark.parametrize("text", CREDENTIALS)
def test_what_looks_like_a_credential_is_taken_out_whosever_it_is(text):
    assert without_credentials(text) == CREDENTIALS[text]


@pytest.mark.parametrize("text", ORDINARY)
def test_what_an_operator_must_read_stays(text):
    assert without_credentials(text) == text


@pytest.mark.parametrize("text", CREDENTIALS)
@pytest.mark.parametrize("status", [200, 400])
async def test_an_excerpt_is_kept_without_credentials(text, status):
    async with (
        Receiver(respond(status, body=text.encode())) as receiver,
        HttpSink(Endpoint("orders", receiver.url, allow_private=True)) as sink,
    ):
        try:
            excerpt = (await sink.send(EVENT)).excerpt
        except UnexpectedStatus as failure:
            excerpt = failure.excerpt

    assert excerpt == CREDENTIALS[text]


async def test_a_receiver_that_repeats_the_whole_request_gives_away_nothing():
    """Each header and the URL, as they came: what is kept holds no secret of the endpoint in any of its forms."""
    path, query, password, token = "path-s3cret-1", "query-s3cret/2", "password-s3cret+3", "header-s3cret-4"

    def script(request):
        headers = "".join(
            f"{name}: {value}\n" for name, value in request.headers.items() if name != "webhook-id"
        )
        decoded = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        echo = f"POST {request.path}\n{urllib.parse.unquote(request.path)}\n{headers}\n{decoded}\n{token}\n{SIGNING}"
        return respond(500, body=echo.encode())

    async with Receiver(script) as receiver:
        host = receiver.url.removeprefix("http://")
        url = f"http://user:{urllib.parse.quote(password, safe='')}@{host}/{path}?key={urllib.parse.quote(query, safe='')}"
        endpoint = Endpoint(
            "orders",
            url,
            headers={"x-key": f"Token {token}"},
            signing_secrets=(SIGNING,),
            allow_private=True,
        )
        async with HttpSink(endpoint) as sink:
            with pytest.raises(UnexpectedStatus) as failure:
                await sink.send(EVENT)
        excerpt = failure.value.excerpt
    assert excerpt.startswith("POST ***")
    for secret in (path, query, password, token, SIGNING.removeprefix("whsec_")):
        for form in (secret, urllib.parse.quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            assert form not in excerpt
    assert base64.b64encode(f"user:{password}".encode()).decode() not in excerpt


def test_of_several_endpoints_the_secrets_of_all_are_taken_out():
    """A run that read an endpoint anew may yet meet an error of the old one."""
    old, new = (Endpoint("orders", f"https://example.com/{each}") for each in ("old-t0ken", "new-t0ken"))
    assert safe_message(ValueError("old-t0ken new-t0ken"), old, new) == "ValueError: *** ***"


@given(st.text(max_size=200))
def test_taking_out_credentials_twice_is_taking_them_out_once(text):
    once = without_credentials(text)
    assert without_credentials(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "token",
        "bearer ",
        "://",
        "token: ",
        'password\\"',
        " ",
        "secret=",
        "://a",
        "password:'",
        "token:&",
    ],
)
def test_no_answer_is_so_strange_that_it_takes_long(text):
    start = time.process_time()
    without_credentials((text * READ_BYTES)[:READ_BYTES])
    assert time.process_time() - start < 0.5


# A secret that a cut goes through

SECRET = "header-s3cret-4/of-many-characters"


async def excerpt_of(*actions, **fields):
    """Send to a receiver that does this; return the excerpt that is kept, of a success or a failure."""

    async with Receiver(*actions) as receiver:
        endpoint = Endpoint(
            "orders", receiver.url, headers={"x-key": SECRET}, allow_private=True, timeout=5.0, **fields
        )
        async with HttpSink(endpoint) as sink:
            try:
                return (await sink.send(EVENT)).excerpt
            except UnexpectedStatus as failure:
                return failure.excerpt


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("indentation", [1000, 1020, 4080, 4096 - 20, EXAMINED_BYTES - 20], ids=str)
@pytest.mark.parametrize("blank", [" ", "\r\n\t", "\x00", "\u200b"], ids=ascii)
async def test_white_space_before_a_secret_moves_no_part_of_it_past_a_cut(status, indentation, blank):
    body = (blank * indentation).encode()[:indentation] + f"{SECRET} is wrong".encode()
    excerpt = await excerpt_of(respond(status, body=body))
    assert SECRET[:4] not in excerpt
    assert excerpt.lstrip("\ufffd ").startswith("***")


async def test_of_a_long_answer_only_the_beginning_is_examined():
    body = b" " * EXAMINED_BYTES + f"{SECRET} is wrong".encode()
    assert await excerpt_of(respond(500, body=body)) == ""
    assert await excerpt_of(respond(500, body=b"no" + body)) == "no"


@pytest.mark.parametrize("status", [200, 401])
async def test_the_beginning_of_a_secret_that_an_answer_breaks_off_in_is_taken_out(status):
    body = f"the key {SECRET[:-1]}"

    async def break_off(_reader, writer):
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body) + 100}\r\n\r\n{body}".encode())
        writer.close()

    assert await excerpt_of(Action("break off", break_off)) == "the key ***"


@pytest.mark.parametrize("seen", range(4, len(SECRET)))
def test_of_a_secret_that_a_cut_goes_through_no_more_than_three_characters_are_kept(seen):
    answer = f"the key {SECRET[:seen]}".encode()
    assert Redactor([SECRET, SECRET[:10]]).excerpt(answer, 1024, is_whole=False) == "the key ***"


def test_a_character_that_is_cut_in_two_hides_no_beginning_of_a_secret():
    redactor = Redactor(["pässwörd"])
    assert redactor.excerpt("the key pässwö".encode()[:-1], 1024, is_whole=False) == "the key ***"


def test_an_answer_that_is_whole_keeps_its_end():
    redactor = Redactor(["endpoint-secret"])
    assert redactor.excerpt(b"no such endpoint", 1024, is_whole=True) == "no such endpoint"


def test_of_an_answer_with_many_credentials_none_is_kept_in_part():
    answer = f"token: {'x' * 200}\n".encode() * 300
    for before in range(len(answer) // 300):
        excerpt = Redactor([]).excerpt(b"-" * before + b" " + answer, 1024, is_whole=True)
        assert "token: *** token: ***" in excerpt
        assert "x" not in excerpt


def test_an_answer_that_is_one_long_word_is_kept_up_to_a_kibibyte():
    assert Redactor([]).excerpt(b"data: " + b"x" * 60_000, 1024, is_whole=True) == "data: " + "x" * 1018


def test_a_secret_with_slashes_is_found_where_json_escapes_them():
    redactor = Redactor(["abc/def//ghi"])
    assert redactor.line(r'"abc\/def\/\/ghi"') == '"***"'


def test_without_secrets_only_what_looks_like_one_is_taken_out():
    assert Redactor([]).line("all is\nwell, password=abc") == "all is well, password=***"
    assert safe_message(ValueError("all is well")) == "ValueError: all is well"
