"""Sends to a receiver with faults: the outcome, the time, the memory, and the connection for the next event."""

import asyncio
import gzip
import time
import tracemalloc
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

import aiohttp
import httpx
import psutil
import pytest

from resonant.delivery.classification import classify
from resonant.delivery.verdict import Verdict
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks import http
from resonant.sinks.base import Receipt
from resonant.sinks.http import READ_BYTES, HttpSink
from resonant.sinks.network.bounded_connection import HEAD_BYTES, MAX_FRAMING_BYTES, MAX_INTERIM_ANSWERS
from resonant.sinks.redaction import EXCERPT_BYTES
from resonant.testing import (
    FAULTS,
    FLAWS,
    Action,
    Authority,
    Receiver,
    Request,
    bad_day,
    endless_answers,
    endless_body,
    endless_interim,
    full_accept_queue,
    garbage,
    gzip_bomb,
    named_fault,
    never_answer,
    never_read,
    nobody_listening,
    raw,
    reset_before_response,
    respond,
)
from resonant.testing.actions import _bomb
from support.events import changed
from support.http_sinks import EVENT, endpoint
from support.waiting import until

pytestmark = pytest.mark.filterwarnings("error")
# Seconds until an attempt is given up: for receivers that let it wait, and for those that answer, even on a busy machine.
DEADLINE, PATIENCE = 1.0, 60.0
NOW = 1_700_000_000.0
NEXT = changed(EVENT, id="evt_2")

DELIVERED = "delivered"
BROKE_OFF, CUT_OFF, TOO_LATE, TOO_LONG = (
    f"delivered, the response body {problem}"
    for problem in (
        "broke off",
        "was cut off: too many chunks or trailers",
        "took too long",
        "has 64 KiB or more",
    )
)
TIMEOUT = Verdict("transient", "timeout", maybe_processed=True)
DISCONNECTED = Verdict("transient", "disconnected", maybe_processed=True)
RESET = Verdict("transient", "connection_reset", maybe_processed=True)
BROKEN_PIPE = Verdict("transient", "broken_pipe", maybe_processed=True)
NO_HTTP = Verdict("transient", "bad_response", maybe_processed=True)
UNAVAILABLE = Verdict("transient", "http_503")
THROTTLED = Verdict("transient", "throttled")
UNVERIFIED = Verdict("permanent", "tls_certificate")
# Dates have whole seconds.
SOON = pytest.approx(5.0, abs=1.5)
OUTCOMES = [
    (DELIVERED, "bad-gzip endless-answers surplus-body"),
    (BROKE_OFF, "endless-trailers half-close-mid-body reset-after-headers reset-mid-body truncated-body"),
    (CUT_OFF, "endless-chunks"),
    (TOO_LATE, "slow-body"),
    (TOO_LONG, "endless-body gzip-bomb"),
    (NO_HTTP, "endless-continue endless-headers endless-interim endless-status-line garbage"),
    (NO_HTTP, "huge-header many-headers"),
    (TIMEOUT, "interim-only-silent silent slow-headers"),
    (DISCONNECTED, "half-close interim-only"),
    (RESET, "reset-before-response reset-mid-response"),
    (Verdict("permanent", "http_302"), "redirect-loop"),
    (THROTTLED, "retry-after-fractional retry-after-negative retry-after-nonsense"),
    (replace(THROTTLED, retry_after=SOON), "retry-after-asctime retry-after-imf-fixdate retry-after-rfc-850"),
    (replace(THROTTLED, retry_after=24 * 3600), "retry-after-huge"),
    (replace(THROTTLED, retry_after=0), "retry-after-past"),
    (replace(THROTTLED, retry_after=5), "retry-after-seconds"),
    (replace(UNAVAILABLE, retry_after=5), "retry-after-seconds-503"),
]
# Faults that end with -503 and are not in the table have the verdict on their status.
EXPECTED = {name: UNAVAILABLE for name in FAULTS if name.endswith("-503")}
EXPECTED |= {name: outcome for outcome, names in OUTCOMES for name in names.split()}


def deadline_of(outcome):
    return DEADLINE if outcome == TIMEOUT else PATIENCE


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Let the body of a success arrive late."""
    monkeypatch.setattr(http, "SUCCESS_BODY_SECONDS", PATIENCE)


async def outcome_of(sink, event=EVENT, clock=lambda: NOW):
    """Send once; return a delivery in words or the verdict, and check the invariants of every attempt."""
    start = time.monotonic()
    try:
        receipt = await sink.send(event)
    # `send` may raise only its documented errors.
    except (UnexpectedStatus, TimeoutError, EndpointError, httpx.HTTPError) as error:
        outcome, excerpt = classify(error, now=clock()), getattr(error, "excerpt", "")
    else:
        warning = f", {receipt.warning.partition(' (')[0]}" if receipt.warning else ""
        outcome, excerpt = f"{DELIVERED}{warning}", receipt.excerpt
    assert time.monotonic() - start < sink.endpoint.timeout + PATIENCE
    assert len(excerpt.encode()) <= EXCERPT_BYTES
    return outcome


@asynccontextmanager
async def nothing_left():
    """Check that the block leaves no descriptor and no task."""
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0):
        pass  # uvloop keeps a descriptor in reserve from the first time that a process listens
    descriptors, tasks = psutil.Process().num_fds, asyncio.all_tasks()
    before = descriptors()
    yield
    await until(lambda: descriptors() <= before and asyncio.all_tasks() <= tasks)


def first_meets(action):
    """Make a script that applies the action to the first event, and accepts all others."""
    return lambda request: action if request.webhook_id == EVENT.id else respond(200)


async def meet(action, outcome, *, tls=None, **fields):
    """Send to a fault, which must have this outcome, then to the recovered receiver, with one sink."""
    async with (
        nothing_left(),
        Receiver(first_meets(action), tls=tls) as receiver,
        HttpSink(endpoint(receiver.url, **{"timeout": deadline_of(outcome)} | fields)) as sink,
    ):
        assert await outcome_of(sink, clock=lambda: receiver.journal[0].received_at) == outcome
        wait_longer(sink)
        assert await outcome_of(sink, NEXT) == DELIVERED, "the sink is broken"
        assert not sink._transport.client.connector._acquired, "a connection was not released"


def wait_longer(sink):
    sink.endpoint = replace(sink.endpoint, timeout=PATIENCE)


def name_of(value):
    return value.name if isinstance(value, Action) else None


# --- the named faults -----------------------------------------------------------------------------------------------


def test_every_fault_has_an_expected_outcome():
    assert EXPECTED.keys() == FAULTS.keys()


# TLS cannot close one half; and of the receivers that wait, one is enough.
NOT_BY_TLS = ("half-close", "interim-only-silent", "slow-headers")


@pytest.mark.parametrize(
    ("fault", "has_tls"),
    [
        (name, has_tls)
        for name in FAULTS
        for has_tls in ((False,) if name.startswith(NOT_BY_TLS) else (False, True))
    ],
)
async def test_each_fault_ends_in_time_with_its_outcome_and_the_next_send_succeeds(
    fault, has_tls, authority, ca_file, monkeypatch
):
    options = {"tls": authority.context(), "ca_file": ca_file} if has_tls else {}
    if fault == "slow-body-503":  # its answer counts, but is read until the deadline
        options["timeout"] = 2 * DEADLINE  # before, its head must arrive
    if EXPECTED[fault] == TOO_LATE:
        monkeypatch.setattr(http, "SUCCESS_BODY_SECONDS", DEADLINE)
    await meet(FAULTS[fault], EXPECTED[fault], **options)


@pytest.mark.parametrize(
    "fault",
    [name for name in FAULTS if name.startswith(("endless", "gzip", "huge", "many"))],
)
async def test_memory_stays_bounded(fault):
    """The receiver is included: a huge header is there three times before it is sent."""
    _bomb()
    tracemalloc.start()
    try:
        await meet(FAULTS[fault], EXPECTED[fault])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 12_000_000


@pytest.mark.parametrize("action", [endless_body(503), gzip_bomb(503), endless_body()], ids=repr)
async def test_nothing_is_awaited_after_64_kib_of_an_answer(action, monkeypatch):
    monkeypatch.setattr(http, "SUCCESS_BODY_SECONDS", 3600.0)
    async with Receiver(action) as receiver, HttpSink(endpoint(receiver.url, timeout=3600.0)) as sink:
        async with asyncio.timeout(PATIENCE):
            assert await outcome_of(sink) in {UNAVAILABLE, TOO_LONG}


def test_the_gzip_bomb_is_large_when_decoded():
    assert len(_bomb()) > 2 * READ_BYTES
    assert len(gzip.decompress(_bomb())) == 128 * 1024 * 1024


@pytest.mark.parametrize("hundreds", [2, 3, 4, 5])
async def test_every_final_status_arrives(hundreds):
    async with nothing_left(), Receiver(named_fault) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        for status in range(hundreds * 100, hundreds * 100 + 100):
            try:
                arrived = await sink.send(changed(EVENT, type=f"test.status-{status}"))
            except UnexpectedStatus as error:
                arrived = error
            assert arrived == (Receipt(status, "", None) if hundreds == 2 else UnexpectedStatus(status))
        assert receiver.accepted == 1, "a proper answer keeps its connection"


# --- answers, byte by byte ------------------------------------------------------------------------------------------

OK, NO = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 No\r\n"
TWO = b"content-length: 2\r\n\r\nok"
EMPTY = b"content-length: 0\r\n\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
# With its size and the two ends of lines, a chunk of one byte has five bytes around it.
MOST_CHUNKS = (MAX_FRAMING_BYTES - len(b"0\r\n\r\n")) // 5
LONG_FIELD = b"x-long: " + b"x" * (HEAD_BYTES - 200) + b"\r\n"
UPGRADE = b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
ANOMALY = Verdict("unknown", "http_101", maybe_processed=True)
OTHER = Verdict("unknown", "http_other", maybe_processed=True)

# Answers after which the receiver keeps the connection, and answers after which it closes.
KEPT = [
    (DELIVERED, b"HTTP/1.1 200\r\n" + TWO),
    (DELIVERED, b"HTTP/1.1 200 Sch\xf6n\r\n" + TWO),
    (DELIVERED, b"HTTP/1.1 200 \xff\xfe\r\n" + TWO),
    (DELIVERED, "HTTP/1.1 200 Schön ✓\r\n".encode() + TWO),
    (DELIVERED, b"\r\n\r\n" + OK + TWO),
    (DELIVERED, b"HTTP/1.0 200 OK\r\n" + TWO),
    (DELIVERED, OK + b"x-name: Sch\xf6n\r\n" + TWO),
    (DELIVERED, OK + b"content-encoding: br, zstd, nonsense\r\n" + TWO),
    (DELIVERED, OK + b"content-type: text/plain; charset=nonsense\r\n" + TWO),
    (DELIVERED, OK + b"location: http://[\r\n" + TWO),
    (DELIVERED, OK + b"set-cookie: =;;;,=\r\n" + TWO),
    (DELIVERED, OK + b"retry-after: nonsense\r\n" + TWO),
    (DELIVERED, CHUNKED + b"1\r\nx\r\n" * MOST_CHUNKS + b"0\r\n\r\n"),
    (DELIVERED, CHUNKED + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 15 + b"0\r\n\r\n"),
    (CUT_OFF, CHUNKED + b"1\r\nx\r\n" * 2 * MOST_CHUNKS + b"0\r\n\r\n"),
    (CUT_OFF, CHUNKED + b"1;" + b"x" * 10_000),
    *((UNAVAILABLE, b"HTTP/1.1 %d Interim\r\n\r\n" % n + NO + EMPTY) for n in (100, 102, 103, 199)),
    (TIMEOUT, INTERIM),
    (UNAVAILABLE, INTERIM * MAX_INTERIM_ANSWERS + NO + TWO),
    (UNAVAILABLE, INTERIM.replace(b"\r\n", b"\n") * MAX_INTERIM_ANSWERS + NO + TWO),
    (NO_HTTP, INTERIM * (MAX_INTERIM_ANSWERS + 300) + NO + TWO),
    (NO_HTTP, INTERIM.replace(b"\r\n", b"\n") * (MAX_INTERIM_ANSWERS + 300) + NO + TWO),
    (UNAVAILABLE, NO + LONG_FIELD + TWO),
    (UNAVAILABLE, NO + b"retry-after: \r\n" + EMPTY),
    (UNAVAILABLE, NO + b"retry-after: \xb2\r\n" + EMPTY),
    (UNAVAILABLE, NO + b"retry-after: " + b"x" * 5000 + b"\r\n" + EMPTY),
    (UNAVAILABLE, NO + b"retry-after: 5\r\nretry-after: 7\r\n" + EMPTY),
    (replace(UNAVAILABLE, retry_after=5), NO + b"retry-after:  \t5 \r\n" + EMPTY),
    (replace(UNAVAILABLE, retry_after=24 * 3600), NO + b"retry-after: " + b"9" * 5000 + b"\r\n" + EMPTY),
    (ANOMALY, UPGRADE),
    (ANOMALY, b"HTTP/1.1 101 Switching\r\n\r\n"),
    *((OTHER, b"HTTP/1.1 " + status + b" ?\r\n" + EMPTY) for status in (b"099", b"600", b"999")),
]
CLOSED = [
    (DELIVERED, OK + b"\r\nas long as the connection"),
    (DELIVERED, OK + b"transfer-encoding: nonsense\r\n\r\nok"),
    (DELIVERED, b"HTTP/1.1 204 No Content\r\n" + TWO),
    (Verdict("permanent", "http_304"), b"HTTP/1.1 304 Not Modified\r\n" + TWO),
    (BROKE_OFF, CHUNKED + b"-2\r\nok"),
    (BROKE_OFF, CHUNKED + b"ffffffffffffffffffff\r\nok"),
    (NO_HTTP, b"HTTP/1.1 1000 No\r\n" + TWO),
    (NO_HTTP, b"HTTP/1.1 -20 No\r\n" + TWO),
    (NO_HTTP, b"HTTP/1.1 2e2 No\r\n" + TWO),
    (NO_HTTP, b"HTTP/2 200 OK\r\n" + TWO),
    (NO_HTTP, b"ICY 200 OK\r\n\r\n"),
    (NO_HTTP, OK + b"content-length: 3\r\n" + TWO),
    (NO_HTTP, OK + b"content-length: -1\r\n\r\nok"),
    (NO_HTTP, OK + b"content-length: two\r\n\r\nok"),
    (NO_HTTP, OK + b"content-length: 99999999999999999999999\r\n\r\nok"),
    (
        NO_HTTP,
        OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ),
    (NO_HTTP, OK + b"x-nul: a\x00b\r\n\r\n"),
    (NO_HTTP, OK + b"no colon\r\n\r\n"),
    (NO_HTTP, OK + b"space before : colon\r\n\r\n"),
    (NO_HTTP, OK + b": no name\r\n\r\n"),
    (NO_HTTP, b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    (NO_HTTP, b"<html>no HTTP</html>"),
    (NO_HTTP, b"\x16\x03\x01\x02\x00\x01"),
    (DISCONNECTED, b""),
    (DISCONNECTED, b"H"),
    (DISCONNECTED, OK.rstrip()),
    (DISCONNECTED, OK + b"content-len"),
]


@pytest.mark.parametrize(
    ("outcome", "answer", "end"),
    [
        pytest.param(*case, end, id=f"{end} {number} {case[1][:60]}")
        for end, cases in (("keep", KEPT), ("close", CLOSED))
        for number, case in enumerate(cases)
    ],
)
async def test_each_answer_has_its_outcome(outcome, answer, end):
    await meet(raw(answer, end=end), outcome)


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (endless_interim(), "it has more than 16 interim answers"),
        (raw(b"\r\n\r\n" * 20_000), "its head has more than 64 KiB"),
        (raw(OK + (b"x: " + b"x" * 1000 + b"\r\n") * 100), "its head has more than 64 KiB"),
    ],
    ids=["interim answers", "empty heads", "a long head"],
)
async def test_the_error_names_the_limit(action, problem):
    async with Receiver(action) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        with pytest.raises(httpx.RemoteProtocolError) as refused:
            await sink.send(EVENT)
    assert str(refused.value) == f"the answer is not HTTP: {problem}"


async def test_the_first_of_many_answers_counts():
    answers = raw(NO + b"content-length: 4\r\n\r\nbusy" + (OK + TWO) * 5000, end="keep")
    async with Receiver(answers) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        with pytest.raises(UnexpectedStatus) as refused:
            await sink.send(EVENT)
    assert refused.value == UnexpectedStatus(503, None, "busy")


async def test_an_answer_in_single_bytes_is_read_whole():
    async def in_bytes(_, writer):
        for byte in OK + TWO:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    async with Receiver(Action("in bytes", in_bytes)) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        for _ in range(2):
            assert await sink.send(EVENT) == Receipt(200, "ok", None)
        assert receiver.accepted == 1


@pytest.mark.parametrize(
    "surplus", [OK + TWO, b"no HTTP", OK + b"content-len", b"HTTP/1.1 102 Wait\r\n\r\n"], ids=str
)
async def test_an_unsolicited_answer_is_never_taken_for_that_to_the_next_event(surplus):
    """The next event would count as delivered, and be lost."""
    settled = asyncio.Event()

    async def answer_twice(_, writer):
        writer.write(OK + TWO)
        await settled.wait()
        writer.write(surplus)
        settled.clear()

    def script(request):
        return Action("answer_twice", answer_twice) if request.webhook_id == EVENT.id else respond(503)

    async with Receiver(script) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        assert await outcome_of(sink) == DELIVERED
        settled.set()
        await until(lambda: not settled.is_set())
        idle = sink._transport.client.connector._conns
        await until(lambda: all(each.should_close for kept in idle.values() for each, _ in kept))
        assert await outcome_of(sink, NEXT) == UNAVAILABLE


async def test_a_receiver_that_continues_after_its_answer_is_disconnected():
    """Its connection is idle then, and nothing reads from it."""
    ended = asyncio.Event()

    async def answer_then_flood(reader, writer):
        writer.write(OK + TWO)
        await asyncio.sleep(0.05)
        try:
            await endless_answers().perform(reader, writer)
        finally:
            ended.set()

    script = first_meets(Action("answer, then flood", answer_then_flood))
    async with nothing_left(), Receiver(script) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        assert await outcome_of(sink) == DELIVERED
        await until(ended.is_set)
        assert await outcome_of(sink, NEXT) == DELIVERED
        assert receiver.accepted == 2


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("welcome", "outcome"),
    [
        (never_read(), TIMEOUT),
        (never_answer(), TIMEOUT),
        (reset_before_response(), RESET),
        (raw(b""), DISCONNECTED),
        (garbage(), NO_HTTP),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("size", [1, 900_000])
async def test_a_connection_that_is_never_read_has_an_outcome_too(welcome, outcome, size):
    event = Event(type="t", source="/s", data="x" * size, id="evt_1")
    async with (
        nothing_left(),
        Receiver(connection=lambda number: welcome if number == 1 else None) as receiver,
        HttpSink(endpoint(receiver.url, timeout=deadline_of(outcome))) as sink,
    ):
        found = await outcome_of(sink, event)
        wait_longer(sink)
        assert await outcome_of(sink, event) == DELIVERED
        assert len(receiver.journal) == 1
    # A close is a reset if the receiver has not read everything, or if more is still being written.
    may_reset = size > 1 or outcome in {DISCONNECTED, NO_HTTP}
    assert found == outcome or (may_reset and found in {RESET, BROKEN_PIPE})


@pytest.mark.parametrize(
    ("listener", "outcome"),
    [(nobody_listening, Verdict("transient", "connect_refused")), (full_accept_queue, TIMEOUT)],
)
async def test_an_address_that_accepts_no_connection_is_transient(listener, outcome):
    with listener() as url:
        async with nothing_left(), HttpSink(endpoint(url, timeout=deadline_of(outcome))) as sink:
            assert await outcome_of(sink) == outcome


# --- TLS ------------------------------------------------------------------------------------------------------------


async def meet_tls(ca_file, *, scheme="https", timeout=PATIENCE, **options):
    async with nothing_left(), Receiver(**options) as receiver:
        url = f"{scheme}://{receiver.url.partition('://')[2]}"
        async with HttpSink(endpoint(url, timeout=timeout, ca_file=ca_file)) as sink:
            outcome = await outcome_of(sink)
            assert await outcome_of(sink) == outcome
        return outcome, len(receiver.journal)


@pytest.mark.parametrize("flaw", [None, *FLAWS])
async def test_only_a_certificate_without_a_flaw_is_accepted(authority, ca_file, flaw):
    expected = (UNVERIFIED, 0) if flaw else (DELIVERED, 2)
    assert await meet_tls(ca_file, tls=authority.context(flaw)) == expected


@pytest.mark.parametrize("has_own_authority", [True, False])
async def test_an_unknown_authority_is_permanent(ca_file, has_own_authority):
    trusted = ca_file if has_own_authority else None
    assert await meet_tls(trusted, tls=Authority().context()) == (UNVERIFIED, 0)


@pytest.mark.parametrize(
    ("welcome", "codes"),
    [
        (raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), {"tls_error"}),
        (never_answer(), {"timeout"}),
        (reset_before_response(), {"connection_reset"}),
        (raw(b""), {"connection_reset", "disconnected"}),
    ],
)
async def test_a_handshake_that_fails_sends_nothing(ca_file, welcome, codes):
    timeout = DEADLINE if codes == {"timeout"} else PATIENCE
    outcome, received = await meet_tls(ca_file, connection=welcome, timeout=timeout)
    assert outcome.code in codes
    assert outcome.category == ("unknown" if outcome.code == "tls_error" else "transient")
    assert received == 0


@pytest.mark.parametrize("flaw", [None, "expired"])
async def test_connecting_verifies_the_certificate(authority, ca_file, flaw):
    async with nothing_left(), Receiver(tls=authority.context(flaw)) as receiver:
        async with HttpSink(endpoint(receiver.url, ca_file=ca_file)) as sink:
            with pytest.raises(aiohttp.ClientConnectorCertificateError) if flaw else nullcontext():
                await sink.connect()
        assert not receiver.journal


async def test_plain_http_to_a_receiver_with_tls_is_not_delivered(authority, ca_file):
    outcome, received = await meet_tls(ca_file, scheme="http", tls=authority.context())
    assert outcome in {NO_HTTP, DISCONNECTED, RESET}
    assert received == 0


# --- scripts of faults ----------------------------------------------------------------------------------------------


def request(webhook_id, try_number, event_type="t"):
    return Request(webhook_id, try_number, "POST", "/", {"ce-type": event_type}, b"", NOW)


def test_a_bad_day_depends_only_on_its_seed():
    def day(seed, share=0.3):
        script = bad_day(share, seed)
        return [script(request(f"evt_{number}", 1 + number % 3)).name for number in range(1000)]

    assert day(1) == day(1) != day(2)
    assert 0.6 < day(1).count("respond") / 1000 < 0.8
    assert set(day(1, share=1.0)) == {action.name for action in FAULTS.values()}
    assert set(day(1, share=0.0)) == {"respond"}


@pytest.mark.parametrize(
    ("event_type", "name", "status"),
    [
        ("demo.status-418", "respond", 418),
        ("demo.garbage", "garbage", None),
        ("endless-body-503", "endless_body", 503),
        ("demo.retry-after-seconds", "retry_after", 429),
        ("demo.retry-after-seconds-503", "retry_after", 503),
        ("order.paid", "respond", 200),
        ("demo.status-099", "respond", 200),
    ],
)
def test_the_event_type_names_the_fault(event_type, name, status):
    action = named_fault(request("evt_1", 1, event_type))
    assert (action.name, action.status) == (name, status)
