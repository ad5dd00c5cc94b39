"""The answers of the test receiver, its journal, its demo script, and the fixed clock."""

import asyncio
import contextlib
import hashlib
import socket
import warnings

import httpx
import pytest

from resonant.testing import (
    Action,
    FixedClock,
    Received,
    Receiver,
    Request,
    always_ok,
    eight_ways,
    endless_body,
    flaky,
    never_answer,
    read_journal,
    redirect,
    respond,
    retry_after,
    retry_after_date,
    slow_body,
)
from resonant.testing.dates import http_date
from support.ports import free_port
from support.talking import post, raw_exchange
from support.waiting import PATIENCE_SECONDS, until


async def test_redirects_name_a_location():
    async with Receiver(redirect("http://127.0.0.1:1/", status=308)) as receiver:
        response, received = await post(receiver.url), receiver.journal[0]
    assert (response.status_code, response.headers["location"]) == (308, "http://127.0.0.1:1/")
    assert (received.action, received.status) == ("redirect", 308)


@pytest.mark.parametrize(
    ("form", "early", "late"),
    [
        ("imf-fixdate", "Sun, 06 Nov 1994 08:49:37 GMT", "Thu, 29 Feb 2024 23:59:59 GMT"),
        ("rfc-850", "Sunday, 06-Nov-94 08:49:37 GMT", "Thursday, 29-Feb-24 23:59:59 GMT"),
        ("asctime", "Sun Nov  6 08:49:37 1994", "Thu Feb 29 23:59:59 2024"),
    ],
)
def test_a_date_has_the_requested_form(form, early, late):
    assert (http_date(form, 784_111_777), http_date(form, 1_709_251_199)) == (early, late)


async def test_a_retry_after_can_have_any_status():
    for action in (retry_after("7", 503), retry_after_date("rfc-850", 7, 503)):
        received, _ = await raw_exchange(Action("close", closing(action.perform)))
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: " in received


def closing(perform):
    async def then_close(reader, writer):
        await perform(reader, writer)
        writer.close()

    return then_close


async def test_a_port_can_be_taken_again_at_once():
    async with Receiver(port=free_port()) as receiver:
        await post(receiver.url)
    async with Receiver(port=httpx.URL(receiver.url).port) as again:
        assert (receiver.url == again.url, (await post(again.url)).status_code) == (True, 200)


def test_a_stopped_receiver_leaves_nothing_behind():
    actions = [never_answer(), slow_body(), endless_body(), respond(200, delay=60), respond(200)]

    def script(request):
        return actions[int(request.webhook_id)]

    async def run():
        before = asyncio.all_tasks()
        async with Receiver(script) as receiver:
            port = httpx.URL(receiver.url).port
            streams = []
            for number in range(len(actions)):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST / HTTP/1.1\r\nwebhook-id: %d\r\n\r\n" % number)
                streams.append((reader, writer))
            idle = await asyncio.open_connection("127.0.0.1", port)
            await until(lambda: len(receiver.journal) == len(actions))
        tasks = asyncio.all_tasks() - before
        for _, writer in [*streams, idle]:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return tasks

    complaints = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        return await asyncio.wait_for(run(), 60)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(watched(), debug=True) == set()
    assert complaints == []


async def test_a_broken_script_fails_its_test():
    async def run():
        async with Receiver(lambda _: {}["no such key"]) as receiver:
            with pytest.raises(httpx.RemoteProtocolError):
                await post(receiver.url)

    with pytest.raises(KeyError, match="no such key"):
        await run()


async def test_the_journal_is_appended_to_and_is_on_disk_before_the_answer(tmp_path):
    path = tmp_path / "journal.jsonl"
    body = '{"greeting":"h€llo"}'.encode()
    seen = []

    async def perform(reader, writer):
        seen.extend(read_journal(path))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with Receiver(journal_path=path) as earlier:
        await post(earlier.url)
    async with Receiver(Action("look", perform, 200), journal_path=path) as receiver:
        await post(receiver.url, body=body)
        journal = receiver.journal
    assert seen == earlier.journal + journal
    assert (journal[0].action, journal[0].status, journal[0].body) == ("look", 200, body)
    assert hashlib.sha256(body).hexdigest() in path.read_text()


def test_an_incomplete_last_line_of_the_journal_is_ignored(tmp_path):
    received = Received("evt_1", 1, "POST", "/", {"ce-type": "x"}, b"\x00\xff", 12.5, "respond", 200)
    path = tmp_path / "journal.jsonl"
    path.write_text(f"{received.to_json()}\n{received.to_json()[:40]}")
    assert read_journal(path) == [received]


@pytest.mark.parametrize(
    ("event_type", "outcomes"),
    [
        ("demo.500-then-200", [500, 200, 200]),
        ("demo.503-retry-after", [503, 200, 200]),
        ("demo.429", [429, 200, 200]),
        ("demo.400", [400, 400, 400]),
        ("demo.reset", [None, None, None]),
        ("demo.silent", [None, None, None]),
        ("demo.redirect", [302, 302, 302]),
        ("demo.slow", [200, 200, 200]),
        ("com.example.order.paid", [200, 200, 200]),
    ],
)
async def test_the_demo_misbehaves_in_eight_ways(event_type, outcomes):
    async with Receiver(eight_ways) as receiver:
        for _ in outcomes:
            with contextlib.suppress(httpx.TransportError):
                await post(
                    receiver.url, event_type=event_type, timeout=httpx.Timeout(PATIENCE_SECONDS, read=0.1)
                )
        await until(lambda: len(receiver.journal) == len(outcomes))
        journal = receiver.journal
    assert [received.status for received in journal] == outcomes


def test_a_flaky_script_always_fails_the_same_share_of_first_tries():
    def failed(seed, try_number):
        script = flaky(0.3, seed)
        requests = [Request(f"evt_{number}", try_number, "POST", "/", {}, b"", 0.0) for number in range(200)]
        return {each.webhook_id for each in requests if script(each).status == 500}

    assert 40 <= len(failed(1, 1)) <= 80
    assert failed(1, 1) == failed(1, 1) != failed(2, 1)
    assert failed(1, 2) == set()


def test_only_advance_moves_the_fixed_clock():
    clock = FixedClock(1_000.0)
    assert (clock(), clock()) == (1_000.0, 1_000.0)
    clock.advance(2.5)
    assert clock() == 1_002.5


async def test_it_listens_on_loopback_only():
    async with Receiver(always_ok) as receiver:
        (listener,) = receiver._server.sockets
        assert (listener.getsockname()[0], listener.family) == ("127.0.0.1", socket.AF_INET)
