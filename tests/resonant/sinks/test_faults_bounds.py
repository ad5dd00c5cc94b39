"""Memory, waits and connections under the faults of a receiver."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from resonant.delivery.verdict import Verdict
from resonant.events import Event
from resonant.sinks.http import HttpSink
from resonant.testing import (
    Action,
    Receiver,
    endless_answers,
    endless_body,
    endless_chunks,
    endless_headers,
    endless_interim,
    full_accept_queue,
    garbage,
    gzip_bomb,
    huge_header,
    many_headers,
    never_answer,
    never_read,
    nobody_listening,
    raw,
    reset_before_response,
    respond,
)
from resonant.testing.actions import _bomb
from support.faulty_receivers import (
    DISCONNECTED,
    NO_HTTP,
    NOW,
    RESET,
    TIMEOUT,
    UNAVAILABLE,
    delivered,
    endpoint,
    first_meets,
    meet,
    no_socket_left,
    outcome_of,
)

pytestmark = pytest.mark.filterwarnings("error")
CUT_OFF = Verdict("transient", "broken_pipe", maybe_processed=True)


@pytest.mark.parametrize(
    "action",
    [
        endless_answers(),
        endless_body(),
        endless_chunks(),
        endless_headers(),
        endless_interim(),
        gzip_bomb(),
        huge_header(),
        many_headers(),
    ],
    ids=lambda action: action.name,
)
async def test_memory_stays_bounded_for_every_fault(action):
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
        ("9" * 5000, 24 * 3600),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90),
        ("Tuesday, 14-Nov-23 22:14:50 GMT", 90),
        ("Tue Nov 14 22:14:50 2023", 90),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:60 GMT", 24 * 3600),
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
