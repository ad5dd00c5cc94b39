"""The test receiver: scripts, connections and malformed requests."""

import asyncio
import contextlib
import os
import random
import socket
import ssl

import httpx
import pytest

from resonant.testing import (
    Authority,
    Receiver,
    respond,
)
from support import patient
from support.talking import RAW, post, talk


async def test_a_script_decides_by_the_request():
    seen = []

    def script(request):
        seen.append(request)
        return respond(201, {"x-answer": "yes"}, b"done")

    async with Receiver(script) as receiver:
        response = await post(f"{receiver.url}/hooks?a=1", webhook_id="evt_9", body=b'{"n":1}')
    (request,) = seen
    assert (response.status_code, response.headers["x-answer"], response.content) == (201, "yes", b"done")
    assert (request.method, request.path, request.webhook_id) == ("POST", "/hooks?a=1", "evt_9")
    assert (request.body, request.event_type, request.headers["ce-type"]) == (
        b'{"n":1}',
        "demo.ok",
        "demo.ok",
    )


@pytest.mark.parametrize(
    ("body", "event_type"), [(b'{"type":"a"}', "a"), (b"{}", ""), (b"[]", ""), (b"not JSON", "")]
)
async def test_the_type_of_a_structured_event_is_in_its_body(body, event_type):
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}
    async with Receiver() as receiver, patient.AsyncClient() as client:
        await client.post(receiver.url, content=body, headers=headers)
    assert receiver.journal[0].event_type == event_type


async def test_tries_are_counted_for_each_webhook_id():
    def script(request):
        return respond(500) if request.try_number < 3 else respond(200)

    async with Receiver(script) as receiver:
        ids = ["a", "b", "a", "a", "b"]
        statuses, journal = (
            [(await post(receiver.url, webhook_id=i)).status_code for i in ids],
            receiver.journal,
        )
    assert statuses == [500, 500, 500, 200, 500]
    assert [(r.webhook_id, r.try_number) for r in journal] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("a", 3),
        ("b", 2),
    ]
    assert [r.status for r in journal] == statuses


async def test_connections_are_kept_alive_unless_the_client_closes_them():
    async with Receiver() as receiver:
        async with patient.AsyncClient() as client:
            for _ in range(3):
                await client.post(receiver.url)
            kept = receiver.accepted
            for _ in range(2):
                await client.post(receiver.url, headers={"connection": "close"})
        assert (kept, receiver.accepted) == (1, 2)


async def test_repeated_headers_are_joined():
    request = b"POST / HTTP/1.1\r\nX-A: 1\r\nx-a: 2\r\nconnection: close\r\n\r\n"

    async with Receiver() as receiver:
        await talk(receiver.url, request)
        assert receiver.journal[0].headers["x-a"] == "1, 2"


CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\nwebhook-id: evt_c\r\n\r\n"


async def test_a_chunked_body_is_one_body_and_the_next_request_follows_it():
    chunks = b'7;name="value"\r\n{"n":1}\r\nA \r\n0123456789\r\n0\r\nx-trailer: yes\r\nx-more: yes\r\n\r\n'
    last = RAW.replace(b"host: x", b"connection: close")

    async with Receiver() as receiver:
        received, _ = await talk(receiver.url, CHUNKED + chunks + last)
        journal = receiver.journal
    assert [each.body for each in journal] == [b'{"n":1}0123456789', b"{}"]
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2


async def test_a_body_streamed_without_a_length_arrives_whole():
    parts = [random.Random(7).randbytes(size) for size in (1, 70_000, 300_000)]

    async def stream():
        for part in parts:
            yield part

    async with Receiver() as receiver:
        status, [received] = (await post(receiver.url, body=stream())).status_code, receiver.journal
    assert status == 200
    assert received.headers["transfer-encoding"] == "chunked"
    assert received.body == b"".join(parts)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"nonsense\r\n\r\n", b"request line"),
        (b"\r\n\r\n", b"request line"),
        (b"POST / and more HTTP/1.1\r\n\r\n", b"request line"),
        (b"PRI * HTTP/2.0\r\n\r\n", b"request line"),
        (b"POST / HTTP/1.1\r\nno colon\r\n\r\n", b"header"),
        (b"POST / HTTP/1.1\r\ncontent-length : 2\r\n\r\n{}", b"header"),
        (b"POST / HTTP/1.1\r\ncontent-length: two\r\n\r\n{}", b"content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n{}", b"content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length:\r\n\r\n{}", b"content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", b"content-length"),
        (b"POST / HTTP/1.1\r\ncontent-length: %b\r\n\r\n" % (b"9" * 5000), b"content-length"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"transfer-encoding"),
        (CHUNKED.replace(b"webhook-id: evt_c", b"content-length: 5") + b"0\r\n\r\n", b"content-length"),
        (CHUNKED + b"two\r\n{}\r\n0\r\n\r\n", b"chunk size"),
        (CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", b"chunk size"),
        (CHUNKED + b"\r\n", b"chunk size"),
        (CHUNKED + b"%b\r\n" % (b"f" * 5000), b"chunk size"),
        (CHUNKED + b"2\r\n{}{}\r\n0\r\n\r\n", b"chunk has the wrong length"),
    ],
    ids=lambda value: ascii(value)[:60],
)
async def test_a_malformed_request_is_the_clients_fault(request_, said):
    async with Receiver() as receiver:
        received, _ = await talk(receiver.url, request_)
        assert (await post(receiver.url)).status_code == 200
        journal = receiver.journal
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n")
    assert said in received.partition(b"\r\n\r\n")[2]
    assert [each.webhook_id for each in journal] == ["evt_1"]


@pytest.mark.parametrize("endless", [b"POST / HTTP/1.1\r\nx-a: ", CHUNKED, CHUNKED + b"0\r\nx-trailer: "])
async def test_a_head_that_is_too_large_is_the_clients_fault(endless):
    """Whether the answer arrives is another matter: there is more that nobody reads."""

    async with Receiver() as receiver:
        received, _ = await talk(receiver.url, endless + b"1" * 1_000_000)
        journal = receiver.journal
    assert received.startswith(b"HTTP/1.1 400 ") or received == b""
    assert journal == []


async def test_bytes_that_are_no_tls_are_the_clients_fault(tmp_path):
    authority = Authority()
    trust = ssl.create_default_context(cafile=authority.write_to(tmp_path / "ca.pem"))
    complaints = []

    def break_the_rules(port):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            trust.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
        ):
            os.write(encrypted.fileno(), b"this is no record of TLS")
            with contextlib.suppress(OSError):
                encrypted.recv(1)

    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with Receiver(tls=authority.context()) as receiver:
        await asyncio.to_thread(break_the_rules, httpx.URL(receiver.url).port)
    assert complaints == []
