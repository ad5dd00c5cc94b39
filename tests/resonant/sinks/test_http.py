"""What the HTTP sink sends, and what it makes of the answer."""

import asyncio
import base64
import re
import ssl
import urllib.parse

import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from resonant.delivery.classification import classify
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.base import Receipt
from resonant.sinks.http import HttpSink
from resonant.testing import (
    Action,
    FixedClock,
    Receiver,
    endless_body,
    garbage,
    redirect,
    reset_before_response,
    reset_mid_body,
    reset_mid_response,
    respond,
    slow_body,
    truncated_body,
)
from support.events import changed
from support.http_sinks import EVENT, SECRET, deliver, endpoint, seconds

VECTOR_EVENT = Event.from_stored("msg_p5jXN8AQM9LWM0D4loKWxJek", "test", "/test", b'{"test": 2432232314}')
VECTOR_TIME = 1614265330
VECTOR_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
CHUNKED, BAD = b"transfer-encoding: chunked\r\n\r\n", b"no size\r\n"


def write(*packets):
    """Make what an action performs: a status of 200 and these bytes, each in a packet of its own."""

    async def perform(reader, writer):
        first, *others = packets
        writer.write(b"HTTP/1.1 200 OK\r\n" + first)
        for packet in others:
            await asyncio.sleep(0.05)
            writer.write(packet)

    return perform


# The wire
async def test_the_bytes_that_arrive_are_the_bytes_that_were_stored():
    event = changed(EVENT, body='{"b" : 1, "a":"h€llo","n":1.50}'.encode())
    _, receiver = await deliver(respond(200), event)
    assert receiver.journal[0].body == event.body


async def test_every_header_of_the_binding_is_there():
    event = changed(EVENT, time="2026-01-31T12:00:00Z", subject="order/42")
    _, receiver = await deliver(respond(200), event, clock=FixedClock(1_700_000_000.9))
    headers = dict(receiver.journal[0].headers)
    assert headers.pop("host") == receiver.url.removeprefix("http://")
    assert headers.pop("user-agent").startswith("resonant/")
    assert headers == {
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": str(len(event.body)),
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "evt_1",
        "ce-type": "com.example.order.paid",
        "ce-source": "/orders",
        "ce-time": "2026-01-31T12:00:00Z",
        "ce-subject": "order/42",
        "webhook-id": "evt_1",
        "webhook-timestamp": "1700000000",
    }


async def test_the_event_is_posted_to_the_path_and_query_as_configured():
    path = "/a%2Fb/c+d/~e?sig=a%2Bb%3D&x=y"

    seen = []

    def script(request):
        seen.append((request.method, request.path))
        return respond(200)

    await deliver(script, path=path)
    assert seen == [("POST", path)]


async def test_attributes_are_percent_encoded_as_the_binding_demands():
    # The example of CloudEvents HTTP binding, 3.1.3.2, and one for each rule.
    event = changed(EVENT, subject="Euro € 😀", source='/a"b%c d~!', id="evt_%1")
    _, receiver = await deliver(respond(200), event)
    headers = receiver.journal[0].headers
    assert headers["ce-subject"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert headers["ce-source"] == "/a%22b%25c%20d~!"
    assert (headers["ce-id"], headers["webhook-id"]) == ("evt_%251", "evt_%1")


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_any_attribute_becomes_visible_ascii_and_comes_back(text):
    sink = HttpSink(endpoint("http://example.com"))
    encoded = sink._headers(changed(EVENT, subject=text))["ce-subject"]
    assert re.fullmatch(r"[!-~]+", encoded)
    assert '"' not in encoded
    assert urllib.parse.unquote(encoded) == text


async def test_the_signature_is_that_of_the_reference_vector():
    _, receiver = await deliver(
        respond(200), VECTOR_EVENT, clock=FixedClock(VECTOR_TIME), signing_secrets=(SECRET,)
    )
    headers = receiver.journal[0].headers
    assert headers["webhook-timestamp"] == str(VECTOR_TIME)
    assert headers["webhook-signature"] == VECTOR_SIGNATURE


async def test_while_a_secret_is_rotated_both_sign():
    other = "whsec_" + base64.b64encode(b"n" * 24).decode()
    _, receiver = await deliver(respond(200), signing_secrets=(SECRET, other))
    received = receiver.journal[0]
    assert len(received.headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, other):
        assert Webhook(secret).verify(received.body, dict(received.headers)) == {"order": 42}


async def test_without_a_secret_there_is_no_signature():
    _, receiver = await deliver(respond(200))
    assert "webhook-signature" not in receiver.journal[0].headers


async def test_the_endpoints_own_headers_are_sent():
    _, receiver = await deliver(respond(200), headers={"X-Tenant": "a b", "User-Agent": "mine/1"})
    headers = receiver.journal[0].headers
    assert (headers["x-tenant"], headers["user-agent"]) == ("a b", "mine/1")


async def test_a_user_in_the_url_becomes_basic_authentication():
    async with Receiver() as receiver:
        url = receiver.url.replace("http://", "http://us%20er:p%40ss@")
        async with HttpSink(endpoint(url)) as sink:
            await sink.send(EVENT)
        headers = receiver.journal[0].headers
    assert headers["authorization"] == "Basic " + base64.b64encode(b"us er:p@ss").decode()
    assert "@" not in headers["host"]


async def test_https_trusts_the_endpoints_own_authority_and_no_other(tmp_path):
    authority, server = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def run(**fields):
        async with Receiver(tls=server) as receiver, HttpSink(endpoint(receiver.url, **fields)) as sink:
            return await sink.send(EVENT)

    assert (await run(ca_file=str(tmp_path / "ca.pem"))).status_code == 200
    with pytest.raises(httpx.TransportError) as failure:
        await run()
    assert classify(failure.value, now=0.0).code == "tls_certificate"


async def test_a_missing_ca_file_is_an_endpoint_error():
    async def run():
        async with HttpSink(endpoint("https://127.0.0.1:1", ca_file="/no/such/file.pem")) as sink:
            await sink.send(EVENT)

    with pytest.raises(EndpointError, match="ca_file cannot be read: No such file"):
        await run()


# The answer
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_a_delivery(status):
    outcome, _ = await deliver(respond(status))
    assert outcome == Receipt(status, "", None)


@pytest.mark.parametrize("status", [101, 301, 302, 304, 400, 404, 410, 429, 500, 503, 599])
async def test_any_other_status_is_not(status):
    outcome, _ = await deliver(respond(status))
    assert isinstance(outcome, UnexpectedStatus)
    assert (outcome.status_code, outcome.retry_after) == (status, None)


async def test_an_unexpected_status_carries_retry_after_and_the_answer():
    outcome, _ = await deliver(
        respond(503, {"Retry-After": "Mon, 03 Jun 2019 11:30:12 GMT"}, b"come\r\n back\x00 later")
    )
    assert outcome == UnexpectedStatus(503, "Mon, 03 Jun 2019 11:30:12 GMT", "come back later")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(status):
    async with Receiver() as other, Receiver(redirect(other.url, status)) as receiver:
        async with HttpSink(endpoint(receiver.url)) as sink:
            with pytest.raises(UnexpectedStatus):
                await sink.send(EVENT)
        assert (len(receiver.journal), len(other.journal)) == (1, 0)


@pytest.mark.parametrize(
    ("action", "warning"),
    [
        (truncated_body(), "the response body broke off (ClientPayloadError)"),
        (reset_mid_body(), "the response body broke off (ClientPayloadError)"),
        (endless_body(), "the response body has 64 KiB or more"),
        (slow_body(10), "the response body took too long"),
        (Action("bad chunk", write(CHUNKED, BAD)), "the response body broke off"),
        (Action("late bad chunk", write(CHUNKED, b"2\r\nok\r\n", BAD)), "the response body broke off"),
        (Action("bad chunk at once", write(CHUNKED + BAD)), "the response body broke off"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
async def test_a_2xx_is_a_delivery_with_any_body(action, warning):
    (outcome, _), duration = await seconds(deliver(action))
    assert isinstance(outcome, Receipt)
    assert outcome.status_code == 200
    assert outcome.warning.startswith(warning.partition(" (")[0])
    assert duration < (4 if "too long" in warning else 0.9)


async def test_a_body_that_does_not_decode_is_not_decoded():
    outcome, _ = await deliver(respond(200, {"content-encoding": "gzip"}, b"no gzip"))
    assert outcome == Receipt(200, "no gzip", None)


@pytest.mark.parametrize(
    "action",
    [truncated_body(503), reset_mid_body(503), endless_body(503), slow_body(10, 503)],
    ids=lambda a: a.name,
)
async def test_a_broken_body_does_not_hide_the_status(action):
    outcome, _ = await deliver(action, timeout=1.0)
    assert isinstance(outcome, UnexpectedStatus)
    assert outcome.status_code == 503


@pytest.mark.parametrize("status", [200, 500])
async def test_one_kibibyte_of_an_answer_is_kept(status):
    outcome, _ = await deliver(respond(status, body="€".encode() * 1000))
    assert outcome.excerpt == "€" * (1024 // 3)


@given(st.binary(max_size=3000))
def test_an_excerpt_is_one_line_of_visible_text_of_a_kibibyte_at_most(body):
    excerpt = HttpSink(endpoint("http://example.com"))._excerpt(bytearray(body))
    assert len(excerpt.encode()) <= 1024
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", excerpt)


async def test_an_answer_that_repeats_our_secrets_is_kept_without_them():
    def script(request):
        echo = f"Cannot POST {request.path}: {request.headers['authorization']}"
        return respond(404, body=b"." * 1000 + echo.encode())

    outcome, _ = await deliver(
        script, path="/hooks/T0KENT0KEN?key=qqqq", headers={"authorization": "Bearer s3cret"}
    )
    assert outcome.excerpt.endswith(".Cannot POST ***?***: ***")


async def test_headers_as_large_as_a_body_do_not_hide_a_success():
    outcome, _ = await deliver(respond(200, {"x-large": "x" * 50_000}))
    assert outcome.status_code == 200


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (reset_before_response(), "connection_reset"),
        (reset_mid_response(), "connection_reset"),
        (garbage(), "bad_response"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
async def test_an_answer_without_a_status_is_a_transient_failure_that_may_have_been_processed(action, code):
    outcome, _ = await deliver(action)
    verdict = classify(outcome, now=0.0)
    assert (verdict.category, verdict.code, verdict.maybe_processed) == ("transient", code, True)
