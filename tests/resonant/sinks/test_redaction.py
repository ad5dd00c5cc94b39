"""Messages of sinks, without secrets."""

import base64
import re
import urllib.parse

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.sinks.base import CallableSink, Receipt
from resonant.sinks.http import HttpSink
from resonant.testing import (
    Action,
    garbage,
    never_answer,
    reset_before_response,
    respond,
)
from support.http_sinks import EVENT, deliver, endpoint
from support.redaction import safe_message

# Messages to store
TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789-_.~", min_size=4, max_size=40)
TEXTS = st.text(st.characters(exclude_characters="*"), max_size=30)


@given(
    st.tuples(*(TOKENS.map(lambda token, number=number: f"{token}{number}-token") for number in range(4))),
    st.binary(min_size=24, max_size=64),
    st.lists(TEXTS, min_size=7, max_size=7),
)
def test_no_secret_is_in_a_message_wherever_it_was_in_the_text(tokens, key, texts):
    password, value, header, part = tokens
    signing = "whsec_" + base64.b64encode(key).decode()
    url = f"https://user:{password}@example.com/hooks/{part}?key={value}"
    secretive = endpoint(url, headers={"X-Key": f"Token {header}"}, signing_secrets=(signing,))
    secrets = [url, password, value, header, part, signing.removeprefix("whsec_")]
    text = "".join(t + s for t, s in zip(texts, [*secrets, ""], strict=True))
    message = safe_message(ValueError(text), secretive)
    assert not [secret for secret in secrets if secret in message]
    assert len(message) <= 300
    assert len(message.splitlines()) <= 1
    message.encode()


@pytest.mark.parametrize(
    "url", ["https://u:{}@example.com", "https://example.com/?k={}", "https://example.com/{}"]
)
@given(st.booleans(), TOKENS, TEXTS, TEXTS)
def test_a_secret_that_is_written_percent_encoded_is_found_in_both_forms(
    url, as_written, token, before, after
):
    secret = f"{token}+@é!"
    encoded = urllib.parse.quote(secret, safe="")
    secretive = endpoint(url.format(secret.replace("@", "%40") if as_written else encoded))
    message = safe_message(ValueError(f"{before}{encoded}{after} {before}{secret}{after}"), secretive)
    assert encoded not in message
    assert secret not in message


def test_credentials_are_found_as_they_are_sent_too():
    sent = base64.b64encode(b"user:p@ss").decode()
    secretive = endpoint("https://user:p%40ss@example.com")
    assert safe_message(ValueError(f"Basic {sent}"), secretive) == "ValueError: Basic ***"
    assert safe_message(ValueError(f"refused: {sent}"), secretive) == "ValueError: refused: ***"


def test_a_secret_is_found_as_it_is_sent():
    secretive = endpoint("https://example.com/?k=a!+b é")
    assert safe_message(ValueError("k=a!+b%20%C3%A9"), secretive) == "ValueError: ***"
    assert safe_message(ValueError("a!+b%20%C3%A9"), secretive) == "ValueError: ***"


def test_of_two_secrets_the_longer_is_taken_out_whole():
    secretive = endpoint("https://example.com", headers={"X-A": "abcd", "X-B": "abcdefgh", "X-C": "abcdef"})
    assert safe_message(ValueError("abcdefgh abcdef"), secretive) == "ValueError: *** ***"


def test_a_message_is_one_line_of_300_characters_at_most_and_can_be_encoded():
    text = "a\n b\x00\u202ec\udcff" + "x" * 1000
    message = safe_message(ValueError(text), endpoint("https://example.com"))
    assert message == "ValueError: a b c " + "x" * (300 - 18)
    assert message.isprintable()


async def test_a_message_is_the_type_and_text_of_the_cause():
    async def run():
        async with HttpSink(endpoint("http://127.0.0.1:1/T0KENT0KEN")) as sink:
            await sink.send(EVENT)

    with pytest.raises(httpx.TransportError) as failure:
        await run()
    assert re.fullmatch(
        r"ConnectionRefusedError: \[Errno 111\] Connect call failed \('127.0.0.1', 1\)",
        safe_message(failure.value, endpoint("http://127.0.0.1:1/T0KENT0KEN")),
    )


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (garbage(), "RemoteProtocolError: the answer is not HTTP"),
        (reset_before_response(), "ConnectionResetError: [Errno 104] Connection reset by peer"),
        (never_answer(), "TimeoutError: no answer within 1 s"),
        (respond(500), "UnexpectedStatus: the endpoint answered 500"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
async def test_a_message_says_what_happened(action, message):
    outcome, receiver = await deliver(action, path="/T0KENT0KEN", timeout=1.0)
    assert safe_message(outcome, endpoint(receiver.url)).startswith(message)


def test_a_ring_of_causes_has_an_end():
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    assert safe_message(first, endpoint("https://example.com")) == "KeyError: 'second'"


def test_an_error_without_a_text_is_its_type():
    assert safe_message(ConnectionError(), endpoint("https://example.com")) == "ConnectionError"


# Other sinks
async def test_any_coroutine_function_can_be_a_sink():
    seen = []

    async def record(event):
        seen.append(event)
        return "whatever"

    async def receipt(event):
        return Receipt(warning="late")

    async def fail(event):
        raise LookupError("no such queue")

    assert await CallableSink(record).send(EVENT) is None
    assert seen == [EVENT]
    assert await CallableSink(receipt).send(EVENT) == Receipt(warning="late")
    with pytest.raises(LookupError, match="no such queue"):
        await CallableSink(fail).send(EVENT)
