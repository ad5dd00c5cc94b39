"""What each fault of a receiver is judged as."""

from __future__ import annotations

import asyncio
import gzip
import time

import pytest

from resonant.delivery.verdict import Verdict
from resonant.errors import UnexpectedStatus
from resonant.events import Event
from resonant.sinks.http import READ_BYTES, HttpSink
from resonant.testing import (
    FAULTS,
    Action,
    Receiver,
    endless_body,
    gzip_bomb,
    named_fault,
    raw,
    respond,
)
from resonant.testing.actions import _bomb
from support.events import changed
from support.faulty_receivers import (
    BROKE_OFF,
    DISCONNECTED,
    EVENT,
    EXPECTED,
    NO_HTTP,
    TIMEOUT,
    TOO_LONG,
    UNAVAILABLE,
    delivered,
    endpoint,
    first_meets,
    meet,
    no_socket_left,
    outcome_of,
)
from support.waiting import until

pytestmark = pytest.mark.filterwarnings("error")


def of_type(way, number=1):
    return Event(type=f"hell.{way}", source="/hell", data=None, id=f"evt_{number}_{way}")


def test_every_way_of_hell_is_expected_to_end_somehow():
    assert EXPECTED.keys() == FAULTS.keys()


@pytest.mark.parametrize("way", FAULTS)
async def test_every_way_ends_in_time_with_its_verdict_and_the_next_send_works(way):
    assert await meet(first_meets(FAULTS[way]), clock=time.time) == EXPECTED[way]


# Statuses
@pytest.mark.parametrize("hundreds", [2, 3, 4, 5])
async def test_every_final_status_is_read(hundreds):
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


def test_the_gzip_bomb_is_large_when_decoded():
    assert len(_bomb()) > 2 * READ_BYTES
    assert len(gzip.decompress(_bomb())) == 128 * 1024 * 1024
