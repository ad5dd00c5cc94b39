"""Deadlines and connections of the HTTP sink."""

import asyncio
import logging
import time
from dataclasses import replace

import pytest

from resonant.errors import UnexpectedStatus
from resonant.sinks.base import Receipt
from resonant.sinks.http import HttpSink
from resonant.testing import (
    Action,
    Receiver,
    endless_body,
    never_answer,
    reset_before_response,
    respond,
    slow_body,
)
from support.events import changed
from support.http_sinks import EVENT, deliver, endpoint, seconds


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
    assert receipt == Receipt(200, "half", "the response body took too long")
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
