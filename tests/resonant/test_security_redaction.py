"""What of a receiver's answer, and of an error's text, is taken out before it is kept: the rules, case by case."""

from __future__ import annotations

import asyncio
import base64
import time
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.errors import UnexpectedStatus
from resonant.events import make_event
from resonant.redact import safe_message, without_credentials
from resonant.sink import Endpoint, HttpSink
from resonant.testing import Receiver, respond

EVENT = make_event(type="order.paid", source="/shop", data={"order": 42})
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
    "postgresql://user:pw@db/events": "postgresql://***@db/events",
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
def test_an_excerpt_is_kept_without_credentials(text, status):
    async def run():
        async with (
            Receiver(respond(status, body=text.encode())) as receiver,
            HttpSink(Endpoint("orders", receiver.url, allow_private=True)) as sink,
        ):
            try:
                return (await sink.send(EVENT)).excerpt
            except UnexpectedStatus as failure:
                return failure.excerpt

    assert asyncio.run(run()) == CREDENTIALS[text]


def test_a_receiver_that_repeats_the_whole_request_gives_away_nothing():
    """Each header and the URL, as they came: what is kept holds no secret of the endpoint in any of its forms."""
    path, query, password, token = "path-s3cret-1", "query-s3cret/2", "password-s3cret+3", "header-s3cret-4"

    def script(request):
        headers = "".join(
            f"{name}: {value}\n" for name, value in request.headers.items() if name != "webhook-id"
        )
        decoded = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        echo = f"POST {request.path}\n{urllib.parse.unquote(request.path)}\n{headers}\n{decoded}\n{token}\n{SIGNING}"
        return respond(500, body=echo.encode())

    async def run():
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
            return failure.value.excerpt

    excerpt = asyncio.run(run())
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
    "text", ["a", "token", "bearer ", "://", "token: ", 'password\\"', " ", "secret=", "://a", "password:'"]
)
def test_no_answer_is_so_strange_that_it_takes_long(text):
    start = time.process_time()
    without_credentials((text * 4096)[:4096])
    assert time.process_time() - start < 0.2
