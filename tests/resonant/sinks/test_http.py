"""The HTTP sink: the request on the wire, the receipt, and the connections."""

import asyncio
import base64
import logging
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from resonant.errors import EndpointError, UnexpectedStatus
from resonant.sinks.base import Receipt
from resonant.sinks.http import HttpSink
from resonant.sinks.redaction import Redactor
from resonant.sinks.transport import tls_context
from resonant.testing import (
    Action,
    FixedClock,
    Receiver,
    endless_body,
    never_answer,
    nobody_listening,
    reset_before_response,
    respond,
)
from support.events import changed
from support.http_sinks import EVENT, deliver, endpoint
from support.waiting import until

NEW, OLD = ("whsec_" + base64.b64encode(letter * 32).decode() for letter in (b"n", b"o"))


async def sent(event=EVENT, **options):
    """Deliver an event, and return the request that was received."""
    _, receiver = await deliver(respond(200), event, **options)
    return receiver.journal[0]


# --- the request ----------------------------------------------------------------------------------------------------


async def test_the_stored_bytes_and_every_header_of_the_binding_are_sent_and_no_other():
    body = '{"b" : 1, "a":"h€llo","n":1.50}'.encode()
    event = changed(EVENT, body=body, time="2026-01-31T12:00:00Z", subject="order/42")
    received = await sent(event, clock=FixedClock(1_700_000_000.9))
    assert received.body == body
    headers = dict(received.headers)
    assert headers.pop("host").startswith("127.0.0.1:")
    assert headers.pop("user-agent").startswith("resonant/")
    assert headers == {
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": str(len(body)),
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


async def test_the_request_has_the_path_the_user_and_the_headers_of_the_endpoint():
    path, own = "/a%2Fb/c+d/~e?sig=a%2Bb%3D&x=y", {"X-Tenant": "a b", "User-Agent": "mine/1"}
    request = await sent(path=path, user="us%20er:p%40ss@", headers=own)
    assert (request.method, request.path) == ("POST", path)
    headers = request.headers
    assert (headers["x-tenant"], headers["user-agent"]) == ("a b", "mine/1")
    assert headers["authorization"] == "Basic " + base64.b64encode(b"us er:p@ss").decode()
    assert "@" not in headers["host"]


# --- signatures -----------------------------------------------------------------------------------------------------


def verified_by(received):
    """Return the secrets with which the reference library can verify this request."""
    found = []
    for secret in (NEW, OLD):
        try:
            assert Webhook(secret).verify(received.body, dict(received.headers)) == {"order": 42}
        except WebhookVerificationError:
            continue
        found.append(secret)
    return found


@pytest.mark.parametrize(
    ("secrets", "seconds_left", "verified"),
    [
        ((NEW, OLD), 86_400, [NEW, OLD]),
        ((NEW, OLD), 1, [NEW, OLD]),
        ((NEW, OLD), 0, [NEW]),
        ((NEW, OLD), -1, [NEW]),
        ((OLD,), 0, []),
    ],
)
async def test_a_retired_secret_signs_until_its_end_and_the_new_one_comes_first(
    secrets, seconds_left, verified
):
    now = int(time.time())
    ends = {OLD: now + seconds_left}
    received = await sent(clock=FixedClock(now), signing_secrets=secrets, signing_ends=ends)
    assert verified_by(received) == verified
    signatures = received.headers.get("webhook-signature", "").split()
    assert [signature[:3] for signature in signatures] == ["v1,"] * len(verified)
    if NEW in verified:
        alone = await sent(clock=FixedClock(now), signing_secrets=(NEW,))
        assert signatures[0] == alone.headers["webhook-signature"]


# --- the answer -----------------------------------------------------------------------------------------------------


async def test_an_unexpected_status_has_retry_after_and_the_answer():
    date = "Mon, 03 Jun 2019 11:30:12 GMT"
    outcome, _ = await deliver(respond(503, {"Retry-After": date}, b"come\r\n back\x00 later"))
    assert outcome == UnexpectedStatus(503, date, "come back later")


@pytest.mark.parametrize("beginning", [b"", b"2\r\nok\r\n"], ids=["the first chunk", "the second"])
async def test_an_answer_is_a_delivery_even_if_a_bad_chunk_arrives_later(beginning):
    async def break_off(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + beginning)
        await asyncio.sleep(0.05)
        writer.write(b"no size\r\n")

    outcome, _ = await deliver(Action("break off", break_off))
    assert (outcome.status_code, outcome.excerpt) == (200, "ok" if beginning else "")
    assert outcome.warning.startswith("the response body broke off")


async def test_an_early_answer_with_an_endless_body_does_not_hold_a_worker():
    async def answer_unread(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
        await asyncio.sleep(60)

    async with (
        Receiver(connection=Action("answer unread", answer_unread)) as receiver,
        HttpSink(endpoint(receiver.url)) as sink,
        asyncio.timeout(50),
    ):
        receipt = await sink.send(changed(EVENT, body=b"1" * 20_000_000))
    assert receipt == Receipt(200, "half", "the response body took too long")


@pytest.mark.parametrize("status", [200, 500])
async def test_one_kibibyte_of_an_answer_is_kept(status):
    outcome, _ = await deliver(respond(status, body="€".encode() * 1000))
    assert outcome.excerpt == "€" * (1024 // 3)


@given(st.binary(max_size=3000))
def test_an_excerpt_is_one_line_of_visible_text(body):
    excerpt = Redactor([]).excerpt(body, is_whole=True)
    assert len(excerpt.encode()) <= 1024
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", excerpt)


async def test_a_missing_ca_file_is_an_endpoint_error():
    async with HttpSink(endpoint("https://127.0.0.1:1", ca_file="/no/such/file.pem")) as sink:
        with pytest.raises(EndpointError, match="ca_file cannot be read: No such file"):
            await sink.send(EVENT)


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "times", "accepted"),
    [
        (respond(200, body=b'{"ok":true}'), 20, 1),
        (respond(503, body=b"busy"), 5, 1),
        (endless_body(), 2, 2),
    ],
    ids=["delivered", "refused", "not read to its end"],
)
async def test_a_connection_is_used_again_once_its_answer_was_read_to_the_end(action, times, accepted):
    _, receiver = await deliver(action, times=times)
    assert (len(receiver.journal), receiver.accepted) == (times, accepted)


async def test_connecting_sends_nothing_and_leaves_no_connection():
    async with Receiver() as receiver, HttpSink(endpoint(receiver.url)) as sink:
        await sink.connect()
        await sink.send(EVENT)
        assert (len(receiver.journal), receiver.accepted) == (1, 2)


async def test_connecting_fails_if_nothing_listens_or_the_address_is_refused():
    async with Receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")
        async with HttpSink(endpoint(url, allow_private=False)) as sink:
            with pytest.raises(OSError, match="private or special address"):
                await sink.connect()
        assert receiver.accepted == 0
    with nobody_listening() as url:
        async with HttpSink(endpoint(url)) as sink:
            with pytest.raises(OSError, match="Connect call failed"):
                await sink.connect()


async def test_a_connection_that_was_idle_for_five_seconds_is_not_used_again(monkeypatch):
    """Common servers hang up then, perhaps while the next event is on its way."""
    async with Receiver() as receiver, HttpSink(endpoint(receiver.url)) as sink:
        await sink.send(EVENT)
        monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + 5.0)
        await sink.send(EVENT)
        assert receiver.accepted == 2


async def test_there_are_as_many_connections_as_concurrent_sends():
    async def answer_all_together(_reader, writer):
        await until(lambda: receiver.accepted == 120)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with (
        Receiver(Action("answer all together", answer_all_together)) as receiver,
        HttpSink(endpoint(receiver.url, timeout=60.0)) as sink,
    ):
        await asyncio.gather(*(sink.send(EVENT) for _ in range(120)))
        assert receiver.accepted == 120


async def test_a_cancellation_passes_through_and_leaves_nothing_behind():
    before = asyncio.all_tasks()
    async with Receiver(never_answer()) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        sending = asyncio.create_task(sink.send(EVENT))
        await until(lambda: receiver.journal)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert (asyncio.all_tasks() - before) == set()


async def test_a_closed_sink_opens_again():
    async with Receiver() as receiver:
        sink = HttpSink(endpoint(receiver.url))
        for _ in range(2):
            assert (await sink.send(EVENT)).status_code == 200
            await sink.aclose()
        await sink.aclose()
        assert receiver.accepted == 2


async def test_cookies_are_not_kept():
    _, receiver = await deliver(respond(200, {"set-cookie": "session=1; Path=/"}), times=2)
    assert "cookie" not in receiver.journal[1].headers


async def test_the_url_is_not_logged(caplog):
    with caplog.at_level(logging.DEBUG):
        for action in (respond(200), reset_before_response()):
            await deliver(action, path="/T0KENT0KEN")
    assert "T0KEN" not in caplog.text


def test_endpoints_share_one_set_of_public_certificates():
    assert tls_context(endpoint("https://a.example/")) is tls_context(endpoint("https://b.example/"))
