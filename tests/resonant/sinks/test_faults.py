"""A receiver with every fault: whatever it does, the sink ends in time, the verdict is right, and the next send works.

Each fault meets the real sink over a real socket. What a fault is judged as is written out here by hand: what may be
tried again, whose fault it is, and whether the event may have been processed.
"""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import psutil
import pytest

from resonant.delivery.classification import classify
from resonant.delivery.verdict import Verdict
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import EXCERPT_BYTES, READ_BYTES, HttpSink
from resonant.testing import (
    FAULTS,
    FLAWS,
    Action,
    Authority,
    Receiver,
    Request,
    bad_day,
    endless_body,
    endless_headers,
    endless_interim,
    full_accept_queue,
    garbage,
    gzip_bomb,
    huge_header,
    many_headers,
    named_fault,
    never_answer,
    never_read,
    nobody_listening,
    raw,
    read_journal,
    reset_before_response,
    respond,
)
from resonant.testing.actions import _bomb
from support.events import changed
from support.waiting import until

EVENT = Event(type="com.example.order.paid", source="/orders", data={"order": 42}, id="evt_1")
DEADLINE = 0.3
# How much longer than its deadline an attempt may take on a machine that is busy.
GRACE = 10.0
NOW = 1_700_000_000.0

pytestmark = pytest.mark.filterwarnings("error")

TIMEOUT = Verdict("transient", "timeout", maybe_processed=True)
DISCONNECTED = Verdict("transient", "disconnected", maybe_processed=True)
RESET = Verdict("transient", "connection_reset", maybe_processed=True)
NO_HTTP = Verdict("transient", "bad_response", maybe_processed=True)
UNAVAILABLE = Verdict("transient", "http_503")
THROTTLED = Verdict("transient", "throttled")
# A date is read by a real clock.
SOON = pytest.approx(5.0, abs=3.0)
REDIRECTED = Verdict("permanent", "http_302")
CUT_OFF = Verdict("transient", "broken_pipe", maybe_processed=True)
TLS_BROKEN = Verdict("unknown", "tls_error")
UNVERIFIED = Verdict("permanent", "tls_certificate")


def delivered(warning=None):
    """Return what a delivery is expected to say of the answer's body."""
    return f"delivered, {warning}" if warning else "delivered"


BROKE_OFF, TOO_LATE, TOO_LONG = (
    delivered("the answer's body broke off"),
    delivered("the answer's body took too long"),
    delivered("the answer's body has 64 KiB or more"),
)

EXPECTED = {
    "bad-gzip": delivered(),
    "bad-gzip-503": UNAVAILABLE,
    "endless-body": TOO_LONG,
    "endless-body-503": UNAVAILABLE,
    "endless-headers": NO_HTTP,
    "endless-interim": TIMEOUT,
    "garbage": NO_HTTP,
    "gzip-bomb": TOO_LONG,
    "gzip-bomb-503": UNAVAILABLE,
    "half-close": DISCONNECTED,
    "half-close-mid-body": BROKE_OFF,
    "huge-header": NO_HTTP,
    "interim-only": DISCONNECTED,
    "interim-only-silent": TIMEOUT,
    "many-headers": NO_HTTP,
    "redirect-loop": REDIRECTED,
    "reset-after-headers": BROKE_OFF,
    "reset-after-headers-503": UNAVAILABLE,
    "reset-before-response": RESET,
    "reset-mid-body": BROKE_OFF,
    "reset-mid-body-503": UNAVAILABLE,
    "reset-mid-response": RESET,
    "retry-after-asctime": replace(THROTTLED, retry_after=SOON),
    "retry-after-fractional": THROTTLED,
    "retry-after-huge": replace(THROTTLED, retry_after=2**31),
    "retry-after-imf-fixdate": replace(THROTTLED, retry_after=SOON),
    "retry-after-negative": THROTTLED,
    "retry-after-nonsense": THROTTLED,
    "retry-after-past": replace(THROTTLED, retry_after=0),
    "retry-after-rfc-850": replace(THROTTLED, retry_after=SOON),
    "retry-after-seconds": replace(THROTTLED, retry_after=5),
    "retry-after-seconds-503": replace(UNAVAILABLE, retry_after=5),
    "silent": TIMEOUT,
    "slow-body": TOO_LATE,
    "slow-body-503": UNAVAILABLE,
    "slow-headers": TIMEOUT,
    "surplus-body": delivered(),
    "surplus-body-503": UNAVAILABLE,
    "truncated-body": BROKE_OFF,
    "truncated-body-503": UNAVAILABLE,
}


def endpoint(url, **fields):
    return Endpoint("orders", url, **{"allow_private": True, "timeout": DEADLINE} | fields)


def of_type(way, number=1):
    return Event(type=f"hell.{way}", source="/hell", data=None, id=f"evt_{number}_{way}")


async def outcome_of(sink, event=EVENT, clock=lambda: NOW):
    """Send once; return a delivery in words or the verdict, and check what holds of every attempt."""
    start = time.monotonic()
    try:
        receipt = await sink.send(event)
    # What `send` documents, and nothing else.
    except (UnexpectedStatus, TimeoutError, EndpointError, httpx.HTTPError) as error:
        outcome, excerpt = classify(error, now=clock()), getattr(error, "excerpt", "")
    else:
        outcome, excerpt = delivered(receipt.warning and receipt.warning.partition(" (")[0]), receipt.excerpt
    assert time.monotonic() - start < DEADLINE + GRACE
    assert len(excerpt.encode()) <= EXCERPT_BYTES
    return outcome


@asynccontextmanager
async def no_socket_left():
    """Check that as many descriptors are open after it as before."""
    descriptors = psutil.Process().num_fds
    before = descriptors()
    yield
    await until(lambda: descriptors() <= before)


async def meet(script, *, tls=None, ca_file=None, clock=lambda: NOW):
    """Meet a fault, then a receiver that is well again, with one sink; return the outcome of the first."""
    async with no_socket_left(), Receiver(script, tls=tls) as receiver:
        async with HttpSink(endpoint(receiver.url, ca_file=ca_file)) as sink:
            outcome = await outcome_of(sink, clock=clock)
            assert await outcome_of(sink, changed(EVENT, id="evt_2")) == delivered(), "the sink is broken"
            assert not sink._transport.client.connector._acquired, "a connection is held for good"
        return outcome


def first_meets(action):
    """Make a script: the first event meets the action, every other one is taken."""
    return lambda request: action if request.webhook_id == EVENT.id else respond(200)


def test_every_way_of_hell_is_expected_to_end_somehow():
    assert EXPECTED.keys() == FAULTS.keys()


@pytest.mark.parametrize("way", FAULTS)
async def test_every_way_ends_in_time_with_its_verdict_and_the_next_send_works(way):
    assert await meet(first_meets(FAULTS[way]), clock=time.time) == EXPECTED[way]


# Statuses


@pytest.mark.parametrize("hundreds", [2, 3, 4, 5])
async def test_every_final_status_is_read_whatever_it_is(hundreds):
    """Their verdicts are the classifier's; that the status arrives is the sink's."""

    async with no_socket_left(), Receiver(named_fault) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        for status in range(hundreds * 100, hundreds * 100 + 100):
            try:
                arrived = (await sink.send(of_type(f"status-{status}"))).status_code
            except UnexpectedStatus as error:
                arrived = error.status_code
            assert arrived == status
        assert receiver.accepted == 1, "a proper answer keeps its connection"


@pytest.mark.parametrize("status", [100, 102, 103, 199])
async def test_an_interim_status_is_waited_beyond(status):
    answers = f"HTTP/1.1 {status} Interim\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"
    assert await meet(first_meets(raw(answers.encode(), end="keep"))) == UNAVAILABLE
    assert await meet(first_meets(respond(status))) == TIMEOUT


@pytest.mark.parametrize("headers", [{}, {"connection": "upgrade", "upgrade": "websocket"}], ids=str)
async def test_an_upgrade_that_nobody_asked_for_is_an_anomaly(headers):
    outcome = await meet(first_meets(respond(101, headers)))
    assert outcome == Verdict("unknown", "http_101", maybe_processed=True)


@pytest.mark.parametrize("status", ["099", "600", "999"])
async def test_a_status_that_http_does_not_know_is_unknown(status):
    action = raw(f"HTTP/1.1 {status} ?\r\ncontent-length: 0\r\n\r\n".encode(), end="keep")
    assert await meet(first_meets(action)) == Verdict("unknown", "http_other", maybe_processed=True)


# Heads


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 Sch\xf6n",
        b"HTTP/1.1 200 \xff\xfe",
        "HTTP/1.1 200 Schön ✓".encode(),
        b"\r\n\r\nHTTP/1.1 200 OK",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 200 OK\r\nx-name: Sch\xf6n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br, zstd, nonsense",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=nonsense",
        b"HTTP/1.1 200 OK\r\nlocation: http://[",
        b"HTTP/1.1 200 OK\r\nset-cookie: =;;;,=",
        b"HTTP/1.1 200 OK\r\nretry-after: nonsense",
    ],
    ids=str,
)
async def test_a_success_with_a_strange_head_is_a_delivery(head):
    action = raw(head + b"\r\ncontent-length: 2\r\n\r\nok", end="keep")
    assert await meet(first_meets(action)) == delivered()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 1000 No\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 -20 No\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 2e2 No\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/2 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-nul: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nspace before : colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"<html>no HTTP</html>",
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=str,
)
async def test_what_is_no_http_is_a_bad_response(answer):
    assert await meet(first_meets(raw(answer))) == NO_HTTP


@pytest.mark.parametrize("part", [b"", b"H", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\ncontent-len"], ids=str)
async def test_a_head_that_breaks_off_is_a_lost_connection(part):
    assert await meet(first_meets(raw(part))) == DISCONNECTED


# Bodies


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nas long as the connection", delivered()),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: nonsense\r\n\r\nok", delivered()),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-2\r\nok", BROKE_OFF),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\nok", BROKE_OFF),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok", delivered()),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok", Verdict("permanent", "http_304")),
    ],
    ids=str,
)
async def test_a_strange_body_does_not_hide_the_status(answer, outcome):
    assert await meet(first_meets(raw(answer))) == outcome


LATER_200 = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale"


@pytest.mark.parametrize(
    "surplus",
    [LATER_200, b"no HTTP", b"HTTP/1.1 200 OK\r\ncontent-len", b"HTTP/1.1 102 Wait\r\n\r\n"],
    ids=str,
)
async def test_an_answer_that_nobody_waits_for_is_never_taken_for_that_to_the_next_event(surplus):
    """It would be a delivery that never was: an event that is lost."""

    settled = asyncio.Event()

    async def answer_twice(_, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await settled.wait()
        writer.write(surplus)
        settled.clear()

    def script(request):
        return Action("answer_twice", answer_twice) if request.webhook_id == EVENT.id else respond(503)

    async with Receiver(script) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        assert await outcome_of(sink) == delivered()
        settled.set()
        await until(lambda: not settled.is_set())
        idle = sink._transport.client.connector._conns
        await until(
            lambda: all(each.should_close for kept in idle.values() for each, _ in kept)
        )  # it has arrived
        assert (await outcome_of(sink, changed(EVENT, id="evt_2"))) == UNAVAILABLE


@pytest.mark.parametrize("action", [endless_body(503), gzip_bomb(503), endless_body()], ids=repr)
async def test_after_64_kib_of_an_answer_nobody_waits_for_more(action, monkeypatch):
    # Longer than `outcome_of` allows.
    monkeypatch.setattr("resonant.sinks.http.SUCCESS_BODY_SECONDS", 60.0)
    async with Receiver(action) as receiver, HttpSink(endpoint(receiver.url, timeout=60.0)) as sink:
        assert await outcome_of(sink) in {UNAVAILABLE, TOO_LONG}


def test_the_bomb_is_one_for_whoever_decodes_it():
    assert len(_bomb()) > 2 * READ_BYTES
    assert len(gzip.decompress(_bomb())) == 128 * 1024 * 1024


@pytest.mark.parametrize(
    "action",
    [
        endless_body(),
        endless_headers(),
        endless_interim(),
        gzip_bomb(),
        huge_header(),
        many_headers(),
    ],
    ids=lambda action: action.name,
)
async def test_memory_stays_bounded_whatever_is_sent(action):
    """The receiver is in it too: a huge header is there three times before it is sent."""
    _bomb()
    tracemalloc.start()
    try:
        await meet(first_meets(action))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 12_000_000


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("007", 7),
        (" \t5 ", 5),
        ("9" * 5000, 2**31),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90),
        ("Tuesday, 14-Nov-23 22:14:50 GMT", 90),
        ("Tue Nov 14 22:14:50 2023", 90),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:60 GMT", 2**31),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_retry_after_in_every_form_is_the_seconds_to_wait(value, seconds):
    for status in (503, 429, 404):
        outcome = await meet(first_meets(respond(status, {"retry-after": value})))
        assert (outcome.category, outcome.retry_after) == ("transient", seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "+1",
        "1.5",
        "1e3",
        "0x10",
        "soon",
        "5 s",
        "5, 7",
        "\xb2",
        "\u0663",
        "NaN",
        "Infinity",
        "x" * 5000,
        "Tue, 31 Feb 2023 22:14:50 GMT",
        "Tue, 14 Nov 2023 22:14:50 +0100",
        "2023-11-14T22:14:50Z",
    ],
    ids=lambda value: ascii(value)[:40],
)
async def test_retry_after_that_is_nonsense_is_none(value):
    def answer(status):
        head = f"HTTP/1.1 {status} No\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n"
        return raw(head.encode("latin-1", errors="replace"), end="keep")

    assert await meet(first_meets(answer(503))) == UNAVAILABLE
    assert await meet(first_meets(answer(404))) == Verdict("permanent", "http_404")


async def test_of_two_retry_after_neither_is_taken():
    head = b"HTTP/1.1 503 No\r\nretry-after: 5\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
    assert await meet(first_meets(raw(head, end="keep"))) == UNAVAILABLE


# Connections


@pytest.mark.parametrize(
    ("welcome", "outcome"),
    [
        (never_read(), TIMEOUT),
        (never_answer(), TIMEOUT),
        (reset_before_response(), RESET),
        (raw(b""), DISCONNECTED),
        (garbage(), NO_HTTP),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
@pytest.mark.parametrize("size", [1, 900_000])
async def test_a_connection_that_is_never_read_has_its_verdict_too(welcome, outcome, size):
    event = Event(type="t", source="/s", data="x" * size, id="evt_1")

    async with (
        no_socket_left(),
        Receiver(connection=lambda number: welcome if number == 1 else None) as receiver,
        HttpSink(endpoint(receiver.url)) as sink,
    ):
        first = await outcome_of(sink, event)
        assert await outcome_of(sink, event) == delivered()
        assert len(receiver.journal) == 1
        found = first
    # A close is a reset where the receiver has not read what came, or where more is still being written.
    closes_unread = outcome in {DISCONNECTED, NO_HTTP}
    assert found == outcome or ((size > 1 or closes_unread) and found in {RESET, CUT_OFF})


async def test_a_port_where_nobody_listens_refuses():
    with nobody_listening() as url:
        async with no_socket_left(), HttpSink(endpoint(url)) as sink:
            assert (await outcome_of(sink)) == Verdict("transient", "connect_refused")


async def test_a_full_queue_of_connections_is_waited_for_until_the_deadline():
    with full_accept_queue() as url:
        async with no_socket_left(), HttpSink(endpoint(url)) as sink:
            assert (await outcome_of(sink)) == TIMEOUT


# TLS


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def ca_file(authority, tmp_path):
    return authority.write_to(tmp_path / "ca.pem")


async def meet_tls(ca_file, *, scheme="https", **options):
    async with no_socket_left(), Receiver(**options) as receiver:
        url = f"{scheme}://{receiver.url.partition('://')[2]}"
        async with HttpSink(endpoint(url, ca_file=ca_file)) as sink:
            outcome = await outcome_of(sink)
            assert await outcome_of(sink) == outcome
        return outcome, len(receiver.journal)


async def test_a_certificate_that_verifies_is_a_delivery(authority, ca_file):
    assert await meet_tls(ca_file, tls=authority.context()) == (delivered(), 2)


@pytest.mark.parametrize("flaw", FLAWS)
async def test_a_certificate_that_does_not_verify_is_permanent_and_nothing_was_sent(authority, ca_file, flaw):
    assert await meet_tls(ca_file, tls=authority.context(flaw)) == (UNVERIFIED, 0)


async def test_an_authority_that_nobody_trusts_is_permanent(ca_file):
    assert await meet_tls(ca_file, tls=Authority().context()) == (UNVERIFIED, 0)


async def test_tls_with_one_that_does_not_speak_it_is_unknown_and_nothing_was_sent(ca_file):
    welcome = raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert await meet_tls(ca_file, connection=welcome) == (TLS_BROKEN, 0)


async def test_plain_http_to_one_that_speaks_tls_is_no_delivery(authority, ca_file):
    outcome, received = await meet_tls(ca_file, scheme="http", tls=authority.context())
    assert outcome in {NO_HTTP, DISCONNECTED, RESET}
    assert received == 0


@pytest.mark.parametrize(
    ("welcome", "codes"),
    [
        (never_answer(), {"timeout"}),
        (reset_before_response(), {"connection_reset"}),
        (raw(b""), {"connection_reset", "disconnected"}),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
async def test_a_handshake_that_does_not_end_well_is_transient(ca_file, welcome, codes):
    outcome, received = await meet_tls(ca_file, connection=welcome)
    assert outcome.category == "transient"
    assert outcome.code in codes
    assert received == 0


@pytest.mark.parametrize("way", [way for way in FAULTS if not way.startswith("half-close")])
async def test_over_tls_every_way_ends_like_without(authority, ca_file, way):
    action = FAULTS[way]
    tls = authority.context()
    outcome = await meet(first_meets(action), tls=tls, ca_file=ca_file, clock=time.time)
    assert outcome == EXPECTED[way]


# All at once


async def test_a_bad_day_is_survived_and_the_journal_agrees(tmp_path):
    """Hundreds at a time on one sink: each has an outcome, and what is called delivered was answered with 2xx."""
    journal = tmp_path / "journal.jsonl"

    async with (
        no_socket_left(),
        Receiver(bad_day(0.5, seed=6), journal_path=journal) as receiver,
        HttpSink(endpoint(receiver.url, timeout=4.0)) as sink,
    ):
        events = [changed(EVENT, id=f"evt_{number}") for number in range(300)]
        outcomes = await asyncio.gather(*(outcome_of(sink, event) for event in events))
        for _ in range(3):
            assert await outcome_of(sink, changed(EVENT, id="evt_after")) is not None
    outcomes = dict(zip([event.id for event in events], outcomes, strict=True))
    received = {each.webhook_id: each for each in read_journal(journal)}
    # On a slow machine the deadline may come before the request was sent.
    assert received.keys() >= {each for each, outcome in outcomes.items() if outcome != TIMEOUT}
    for event_id, outcome in outcomes.items():
        if isinstance(outcome, str):
            assert received[event_id].status == 200, received[event_id]
    kinds = Counter(outcome if isinstance(outcome, str) else outcome.code for outcome in outcomes.values())
    assert kinds[delivered()] > 100
    assert {"timeout", "connection_reset", "bad_response", "http_503", "throttled"} <= kinds.keys()


def test_a_bad_day_is_the_same_whenever_the_seed_is():
    def day(seed, share=0.3):
        script = bad_day(share, seed)
        requests = [request(f"evt_{number}", 1 + number % 3) for number in range(1000)]
        return [script(each).name for each in requests]

    assert day(1) == day(1) != day(2)
    assert 0.6 < day(1).count("respond") / 1000 < 0.8
    assert set(day(1, share=1.0)) == {action.name for action in FAULTS.values()}
    assert set(day(1, share=0.0)) == {"respond"}


def request(webhook_id, try_number, event_type="t"):
    return Request(webhook_id, try_number, "POST", "/", {"ce-type": event_type}, b"", NOW)


def test_hell_does_what_the_type_names():
    named = {
        "demo.status-418": ("respond", 418),
        "demo.garbage": ("garbage", None),
        "endless-body-503": ("endless_body", 503),
        "demo.retry-after-seconds": ("retry_after", 429),
        "demo.retry-after-seconds-503": ("retry_after", 503),
        "order.paid": ("respond", 200),
        "demo.status-099": ("respond", 200),
    }
    for event_type, expected in named.items():
        action = named_fault(request("evt_1", 1, event_type))
        assert (action.name, action.status) == expected
