import asyncio
import base64
import logging
import re
import ssl
import time
import urllib.parse
from dataclasses import replace

import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from resonant.delivery.classification import classify
from resonant.errors import AddressRefused, EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.base import CallableSink, Receipt
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.testing import (
    Action,
    FixedClock,
    Receiver,
    endless_body,
    garbage,
    never_answer,
    redirect,
    reset_before_response,
    reset_mid_body,
    reset_mid_response,
    respond,
    slow_body,
    truncated_body,
)
from support.events import changed
from support.redaction import safe_message

# The vector of the Standard Webhooks reference libraries (libraries/python/tests).
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTOR_EVENT = Event.from_stored("msg_p5jXN8AQM9LWM0D4loKWxJek", "test", "/test", b'{"test": 2432232314}')
VECTOR_TIME = 1614265330
VECTOR_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

EVENT = Event(type="com.example.order.paid", source="/orders", data={"order": 42}, id="evt_1")


def endpoint(url, **fields):
    return Endpoint("orders", url, **{"allow_private": True, "timeout": 5.0} | fields)


async def deliver(script, event=EVENT, *, path="", times=1, clock=time.time, **fields):
    """Send to a scripted receiver; return the last outcome (a receipt or the exception) and the receiver."""

    async with (
        Receiver(script) as receiver,
        HttpSink(endpoint(receiver.url + path, **fields), clock=clock) as sink,
    ):
        for _ in range(times):
            try:
                outcome = await sink.send(event)
            except Exception as error:  # noqa: BLE001 - the outcome is what a test looks at
                outcome = error
        return outcome, receiver


async def seconds(sending):
    start = time.monotonic()
    result = await sending
    return result, time.monotonic() - start


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
        (truncated_body(), "the answer's body broke off (ClientPayloadError)"),
        (reset_mid_body(), "the answer's body broke off (ClientPayloadError)"),
        (endless_body(), "the answer's body has 64 KiB or more"),
        (slow_body(10), "the answer's body took too long"),
        (Action("bad chunk", write(CHUNKED, BAD)), "the answer's body broke off"),
        (Action("late bad chunk", write(CHUNKED, b"2\r\nok\r\n", BAD)), "the answer's body broke off"),
        (Action("bad chunk at once", write(CHUNKED + BAD)), "the answer's body broke off"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
async def test_a_2xx_is_a_delivery_whatever_its_body_is(action, warning):
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


# The deadline


@pytest.mark.parametrize(
    "action",
    [
        never_answer(),
        respond(200, delay=60),
        Action("trickling head", slow_body(20).perform),
    ],
    ids=lambda action: action.name,
)
async def test_one_deadline_holds_for_the_whole_attempt(action):
    if action.name == "trickling head":

        async def perform(reader, writer):
            for byte in b"HTTP/1.1 200 OK\r\n" * 100:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)

        action = replace(action, perform=perform)
    (outcome, _), duration = await seconds(deliver(action, timeout=0.3))
    assert isinstance(outcome, TimeoutError)
    assert str(outcome) == "no answer within 0.3 s"
    assert 0.3 <= duration < 15


async def test_the_deadline_holds_while_a_failures_body_trickles_in():
    (outcome, _), duration = await seconds(deliver(slow_body(20, 500), timeout=0.5))
    assert isinstance(outcome, UnexpectedStatus)
    assert outcome.excerpt.startswith("...")
    assert 0.5 <= duration < 9


async def test_the_deadline_holds_for_a_receiver_that_does_not_read():
    async def run():
        async def read_nothing(reader, writer):
            await asyncio.sleep(60)

        server = await asyncio.start_server(read_nothing, "127.0.0.1", 0, limit=1024)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with HttpSink(endpoint(url, timeout=0.3)) as sink:
            with pytest.raises(TimeoutError):
                await sink.send(changed(EVENT, body=b"1" * 20_000_000))
        server.close()

    _, duration = await seconds(run())
    assert duration < 15


async def test_an_early_answer_with_a_body_without_end_does_not_hold_a_worker():
    async def run():
        async def answer_unread(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
            await asyncio.sleep(60)

        server = await asyncio.start_server(answer_unread, "127.0.0.1", 0, limit=1024)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with HttpSink(endpoint(url)) as sink:
            receipt = await sink.send(changed(EVENT, body=b"1" * 20_000_000))
        server.close()
        return receipt

    receipt, duration = await seconds(run())
    assert receipt == Receipt(200, "half", "the answer's body took too long")
    assert duration < 30


async def test_a_cancellation_passes_through_and_leaves_nothing_behind():
    before = asyncio.all_tasks()
    async with Receiver(never_answer()) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        sending = asyncio.create_task(sink.send(EVENT))
        while not receiver.journal:
            await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert (asyncio.all_tasks() - before) == set()


# Connections


async def test_connections_are_reused():
    _, receiver = await deliver(respond(200, body=b'{"ok":true}'), times=20)
    assert (len(receiver.journal), receiver.accepted) == (20, 1)


async def test_a_connection_that_was_idle_for_five_seconds_is_not_used_again(monkeypatch):
    """Common servers hang up then, perhaps while the next event is on its way."""

    async with Receiver() as receiver, HttpSink(endpoint(receiver.url)) as sink:
        await sink.send(EVENT)
        monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + 5.0)
        await sink.send(EVENT)
        assert receiver.accepted == 2


async def test_a_failure_that_was_read_to_its_end_keeps_its_connection():
    _, receiver = await deliver(respond(503, body=b"busy"), times=5)
    assert receiver.accepted == 1


async def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_reused():
    _, receiver = await deliver(endless_body(), times=2)
    assert receiver.accepted == 2


async def test_as_many_connections_as_there_are_sends_at_once():
    async with Receiver(respond(200, delay=0.3)) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        await asyncio.gather(*(sink.send(EVENT) for _ in range(120)))
        assert receiver.accepted == 120


async def test_a_closed_sink_opens_again():
    async with Receiver() as receiver:
        sink = HttpSink(endpoint(receiver.url))
        for _ in range(2):
            assert (await sink.send(EVENT)).status_code == 200
            await sink.aclose()
        await sink.aclose()
        assert receiver.accepted == 2


@pytest.mark.filterwarnings("error")
async def test_nothing_is_left_open():
    asyncio.get_running_loop().set_debug(True)
    before = asyncio.all_tasks()
    async with Receiver(endless_body()) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        await sink.send(EVENT)
    assert asyncio.all_tasks() == before


async def test_cookies_are_not_kept():
    _, receiver = await deliver(respond(200, {"set-cookie": "session=1; Path=/"}), times=2)
    assert "cookie" not in receiver.journal[1].headers


async def test_a_proxy_in_the_environment_is_ignored(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    outcome, receiver = await deliver(respond(200))
    assert outcome.status_code == 200
    assert len(receiver.journal) == 1


async def test_the_url_is_not_logged(caplog):
    with caplog.at_level(logging.DEBUG):
        await deliver(respond(200), path="/T0KENT0KEN")
        await deliver(reset_before_response(), path="/T0KENT0KEN")
    assert "T0KEN" not in caplog.text


# The guard


async def test_a_name_with_a_private_address_is_refused_when_connecting():
    async with Receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")
        async with HttpSink(endpoint(url, allow_private=False)) as sink:
            with pytest.raises(httpx.TransportError) as failure:
                await sink.send(EVENT)
        failure = failure.value
    assert classify(failure, now=0.0).code == "address_refused"
    assert (receiver.accepted, receiver.journal) == (0, [])


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1"])
async def test_an_address_in_disguise_is_refused_when_connecting(host):
    async with Receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", host)
        async with HttpSink(endpoint(url, allow_private=False)) as sink:
            with pytest.raises(httpx.TransportError) as failure:
                await sink.send(EVENT)
        failure, accepted = failure.value, receiver.accepted
    assert classify(failure, now=0.0).category != "transient"
    assert accepted == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"])
def test_a_private_address_in_the_url_is_refused_at_once(host):
    with pytest.raises(AddressRefused):
        endpoint(f"https://{host}/hooks", allow_private=False)
    assert endpoint(f"https://{host}/hooks")


# The endpoint


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"url": "ftp://example.com"}, "must begin with http:// or https://"),
        ({"url": "example.com/hooks"}, "must begin with http:// or https://"),
        ({"url": "https://"}, "has no host"),
        ({"url": "https:///hooks"}, "has no host"),
        ({"url": "https://example.com:0"}, "port 0"),
        ({"url": "https://example.com:65536"}, "port 65536"),
        ({"url": "https://user:s3cret@example.com:s3cret/"}, "not well-formed"),
        ({"url": "https://example.com/s3cret\n"}, "not well-formed"),
        ({"url": "https://exa mple.com/s3cret"}, "host that no name or address can be"),
        ({"url": "https://hooks..example.com/s3cret"}, "host that no name or address can be"),
        ({"url": f"https://{'a' * 64}.example.com/s3cret"}, "host that no name or address can be"),
        ({"headers": {"Authorization: s3cret": "x"}}, "illegal name"),
        ({"headers": {"": "x"}}, "illegal name"),
        ({"headers": {"X-A": "s3cret\r\nX-B: s3cret"}}, "header X-A must be printable ASCII"),
        ({"headers": {"X-A": "s3cret€"}}, "header X-A must be printable ASCII"),
        ({"headers": {"X-A": " s3cret"}}, "header X-A must be printable ASCII"),
        ({"headers": {"CE-Type": "x"}}, "header CE-Type is Resonant's own"),
        ({"headers": {"Webhook-Signature": "x"}}, "header Webhook-Signature is Resonant's own"),
        ({"headers": {"Content-Type": "x"}}, "header Content-Type is Resonant's own"),
        ({"headers": {"content-length": "1"}}, "header content-length is Resonant's own"),
        ({"headers": {"Host": "x"}}, "header Host is Resonant's own"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "header Transfer-Encoding is Resonant's own"),
        (
            {"url": "https://u:s3cret@example.com", "headers": {"authorization": "x"}},
            "both an Authorization header",
        ),
        ({"signing_secrets": ("whsec_s3cret00!",)}, "signing secret must be whsec_ and base64"),
        ({"signing_secrets": (SECRET, "whsec_")}, "signing secret must be whsec_ and base64"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"timeout": -1.0}, "timeout must be a positive number"),
        ({"timeout": float("inf")}, "timeout must be a positive number"),
        ({"timeout": float("nan")}, "timeout must be a positive number"),
    ],
)
def test_an_endpoint_that_cannot_work_is_refused_with_a_reason_and_no_secret(fields, problem):
    with pytest.raises(EndpointError) as refusal:
        Endpoint("orders", **{"url": "https://example.com"} | fields)
    text = str(refusal.value)
    assert text.startswith("endpoint 'orders': ")
    assert problem in text
    assert "s3cret" not in text
    assert "\n" not in text


def test_an_endpoint_is_printed_without_what_is_secret():
    secretive = endpoint(
        "https://u:s3cret@example.com/s3cret?k=s3cret", headers={"X-Key": "s3cret"}, signing_secrets=(SECRET,)
    )
    assert "name='orders'" in repr(secretive)
    assert "s3cret" not in repr(secretive)
    assert SECRET not in repr(secretive)


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
