"""No secret is kept of a receiver's answer or of an error's text."""

import base64
import time
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.sinks.base import CallableSink, Receipt
from resonant.sinks.http import READ_BYTES
from resonant.sinks.redaction import EXAMINED_BYTES, Redactor, without_credentials
from resonant.testing import Action, garbage, never_answer, reset_before_response, respond
from support.http_sinks import EVENT, SECRET, deliver, endpoint
from support.redaction import safe_message

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


def name_of(value):
    return value.name if isinstance(value, Action) else ""


# --- by pattern -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "kept"), [*CREDENTIALS.items(), *zip(ORDINARY, ORDINARY, strict=True)])
def test_credentials_are_removed_and_other_words_are_kept(text, kept):
    assert without_credentials(text) == Redactor([]).excerpt(text.encode(), is_whole=True) == kept


@given(st.text(max_size=200))
def test_removing_credentials_twice_changes_nothing_more(text):
    once = without_credentials(text)
    assert without_credentials(once) == once


REPEATED = [
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
]


@pytest.mark.parametrize("text", REPEATED)
def test_no_answer_takes_long_to_examine(text):
    start = time.process_time()
    without_credentials((text * READ_BYTES)[:READ_BYTES])
    assert time.process_time() - start < 0.5


# --- by value -------------------------------------------------------------------------------------------------------

TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789-_.~", min_size=4, max_size=40)
TEXTS = st.text(st.characters(exclude_characters="*"), max_size=30)


@given(
    st.tuples(*(TOKENS.map(lambda token, number=number: f"{token}{number}-token") for number in range(4))),
    st.sampled_from(["whsec_", "whsk_"]),
    st.binary(min_size=32, max_size=32),
    st.lists(TEXTS, min_size=7, max_size=7),
)
def test_no_secret_is_in_a_message_wherever_it_was_in_the_text(tokens, prefix, key, texts):
    password, value, header, part = tokens
    signing = prefix + base64.b64encode(key).decode()
    url = f"https://user:{password}@example.com/hooks/{part}?key={value}"
    secretive = endpoint(url, headers={"X-Key": f"Token {header}"}, signing_secrets=(signing,))
    secrets = [url, password, value, header, part, signing.removeprefix(prefix)]
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
def test_a_percent_encoded_secret_is_found_in_both_forms(url, as_written, token, before, after):
    secret = f"{token}+@é!"
    encoded = urllib.parse.quote(secret, safe="")
    secretive = endpoint(url.format(secret.replace("@", "%40") if as_written else encoded))
    message = safe_message(ValueError(f"{before}{encoded}{after} {before}{secret}{after}"), secretive)
    assert encoded not in message
    assert secret not in message


SENT = base64.b64encode(b"user:p@ss").decode()
SEVERAL = {"headers": {"X-A": "abcd", "X-B": "abcdefgh", "X-C": "abcdef"}}


@pytest.mark.parametrize(
    ("url", "fields", "text", "message"),
    [
        ("https://user:p%40ss@example.com", {}, f"Basic {SENT}", "Basic ***"),
        ("https://user:p%40ss@example.com", {}, f"refused: {SENT}", "refused: ***"),
        ("https://example.com/?k=a!+b é", {}, "k=a!+b%20%C3%A9", "***"),
        ("https://example.com/?k=a!+b é", {}, "a!+b%20%C3%A9", "***"),
        ("https://example.com", SEVERAL, "abcdefgh abcdef", "*** ***"),
        ("https://example.com", {}, "a\n b\x00\u202ec\udcff" + "x" * 1000, "a b c " + "x" * (300 - 18)),
        ("https://example.com", {}, "", ""),
    ],
    ids=[
        *("credentials as sent", "credentials alone", "a query as sent", "a value as sent"),
        *("the longer of two secrets", "one line of 300 characters", "no text"),
    ],
)
def test_a_message_is_the_type_and_the_text_without_secrets(url, fields, text, message):
    found = safe_message(ValueError(text), endpoint(url, **fields))
    assert found == f"ValueError: {message}".removesuffix(": ")
    assert found.isprintable()


@pytest.mark.parametrize(
    ("action", "options", "message"),
    [
        (garbage(), {}, "RemoteProtocolError: the answer is not HTTP"),
        (reset_before_response(), {}, "ConnectionResetError: [Errno 104] Connection reset by peer"),
        (never_answer(), {"timeout": 0.1}, "TimeoutError: no answer within 0.1 s"),
        (respond(500), {}, "UnexpectedStatus: the endpoint answered 500"),
    ],
    ids=name_of,
)
async def test_a_message_describes_the_cause_of_the_failure(action, options, message):
    outcome, receiver = await deliver(action, path="/T0KENT0KEN", **options)
    assert safe_message(outcome, endpoint(f"{receiver.url}/T0KENT0KEN")).startswith(message)


def test_a_secret_with_slashes_is_found_if_json_escapes_them():
    assert Redactor(["abc/def//ghi"]).line(r'"abc\/def\/\/ghi"') == '"***"'


def test_a_redactor_without_secrets_removes_only_credentials():
    assert Redactor([]).line("all is\nwell, password=abc") == "all is well, password=***"
    assert safe_message(ValueError("all is well")) == "ValueError: all is well"


async def test_a_receiver_that_repeats_the_whole_request_reveals_nothing():
    """The excerpt has no secret of the endpoint in any of its forms."""
    path, query, password, token = "path-s3cret-1", "query-s3cret/2", "password-s3cret+3", "header-s3cret-4"

    def script(request):
        headers = "".join(
            f"{name}: {value}\n" for name, value in request.headers.items() if name != "webhook-id"
        )
        decoded = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        unquoted = urllib.parse.unquote(request.path)
        echo = f"POST {request.path}\n{unquoted}\n{headers}\n{decoded}\n{token}\n{SECRET}"
        return respond(500, body=echo.encode())

    outcome, _ = await deliver(
        script,
        path=f"/{path}?key={urllib.parse.quote(query, safe='')}",
        user=f"user:{urllib.parse.quote(password, safe='')}@",
        headers={"x-key": f"Token {token}"},
        signing_secrets=(SECRET,),
    )
    assert outcome.excerpt.startswith("POST ***")
    for secret in (path, query, password, token, SECRET.removeprefix("whsec_"), f"user:{password}"):
        for form in (secret, urllib.parse.quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            assert form not in outcome.excerpt


# --- a secret at a cut ----------------------------------------------------------------------------------------------

KEY = "header-s3cret-4/of-many-characters"


@pytest.mark.parametrize("indentation", [1000, 1020, 4080, 4096 - 20, EXAMINED_BYTES - 20], ids=str)
@pytest.mark.parametrize("blank", [" ", "\r\n\t", "\x00", "\u200b"], ids=ascii)
def test_white_space_before_a_secret_moves_no_part_of_it_past_a_cut(indentation, blank):
    answer = (blank * indentation).encode()[:indentation] + f"{KEY} is wrong".encode()
    excerpt = Redactor([KEY]).excerpt(answer, is_whole=True)
    assert KEY[:4] not in excerpt
    assert excerpt.lstrip("\ufffd ").startswith("***")


def test_only_the_beginning_of_a_long_answer_is_examined():
    answer = b" " * EXAMINED_BYTES + f"{KEY} is wrong".encode()
    assert Redactor([KEY]).excerpt(answer, is_whole=True) == ""
    assert Redactor([KEY]).excerpt(b"no" + answer, is_whole=True) == "no"


@pytest.mark.parametrize("status", [200, 401])
async def test_the_beginning_of_a_secret_at_the_end_of_a_broken_answer_is_removed(status):
    body = f"the key {KEY[:-1]}"

    async def break_off(_reader, writer):
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body) + 100}\r\n\r\n{body}".encode())
        writer.close()

    outcome, _ = await deliver(Action("break off", break_off), headers={"x-key": KEY})
    assert outcome.excerpt == "the key ***"


def test_at_most_three_characters_of_a_cut_secret_are_kept():
    for seen in range(4, len(KEY)):
        answer = f"the key {KEY[:seen]}".encode()
        assert Redactor([KEY, KEY[:10]]).excerpt(answer, is_whole=False) == "the key ***"
    cut_character = "the key pässwö".encode()[:-1]
    assert Redactor(["pässwörd"]).excerpt(cut_character, is_whole=False) == "the key ***"
    assert Redactor([KEY]).excerpt(b"no such head", is_whole=True) == "no such head", "it is whole"


def test_no_part_of_many_credentials_is_kept():
    answer = f"token: {'x' * 200}\n".encode() * 300
    for before in range(len(answer) // 300):
        excerpt = Redactor([]).excerpt(b"-" * before + b" " + answer, is_whole=True)
        assert "token: *** token: ***" in excerpt
        assert "x" not in excerpt


def test_an_answer_that_is_one_long_word_is_kept_up_to_a_kibibyte():
    assert Redactor([]).excerpt(b"data: " + b"x" * 60_000, is_whole=True) == "data: " + "x" * 1018


# --- other sinks ----------------------------------------------------------------------------------------------------


async def test_any_coroutine_function_can_be_a_sink():
    seen = []

    async def record(event):
        seen.append(event)
        return "ignored"

    async def receipt(event):
        return Receipt(warning="late")

    async def fail(event):
        raise LookupError("no such queue")

    assert await CallableSink(record).send(EVENT) is None
    assert seen == [EVENT]
    assert await CallableSink(receipt).send(EVENT) == Receipt(warning="late")
    with pytest.raises(LookupError, match="no such queue"):
        await CallableSink(fail).send(EVENT)
