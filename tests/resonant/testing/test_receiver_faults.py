"""The faults that the test receiver causes."""

import asyncio
import contextlib
import re
import ssl
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from resonant.testing import (
    Action,
    Authority,
    Receiver,
    endless_body,
    endless_headers,
    endless_interim,
    garbage,
    half_close,
    interim_only,
    never_answer,
    raw,
    reset_after_headers,
    reset_before_response,
    reset_mid_body,
    reset_mid_response,
    slow_body,
    slow_headers,
    surplus_body,
    truncated_body,
)
from support import patient
from support.talking import RAW, post, raw_exchange, refusal, talk
from support.waiting import until


@pytest.mark.parametrize(
    ("action", "received", "end"),
    [
        (reset_before_response(), b"", "reset"),
        (reset_mid_response(), b"HTTP/1.1 2", "reset"),
        (reset_after_headers(), b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", "reset"),
        (
            reset_mid_body(503),
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100\r\n\r\nhalf",
            "reset",
        ),
        (truncated_body(), b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", "closed"),
        (garbage(), b"\x00\x16\x03 this is no HTTP\r\n\r\n", "closed"),
        (interim_only(103), b"HTTP/1.1 103 Early Hints\r\n\r\n", "closed"),
        (half_close(), b"", "closed"),
        (half_close(503), b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100\r\n\r\nhalf", "closed"),
        (raw(b"anything"), b"anything", "closed"),
        (raw(b"anything", end="reset"), b"anything", "reset"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
async def test_each_fault_sends_its_bytes_and_its_end(action, received, end):
    assert await raw_exchange(action) == (received, end)


async def test_a_half_closed_connection_still_reads():
    async with asyncio.timeout(60), Receiver(half_close()) as receiver:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(receiver.url).port)
        writer.write(RAW)
        assert await reader.read() == b""
        writer.write(b"x" * 1_000_000)
        await writer.drain()
        assert receiver._connections, "it is still there"
        writer.close()
        await writer.wait_closed()
        await until(lambda: not receiver._connections)


async def test_a_surplus_follows_the_announced_body_on_an_open_connection():
    async with Receiver(surplus_body(201)) as receiver:
        received, end = await talk(receiver.url, RAW.replace(b"host: x", b"connection: close"))
    promised, surplus = received[: received.index(b"ok") + 2], received[received.index(b"ok") + 2 :]
    assert promised.startswith(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n")
    assert surplus == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert end == "closed"


@pytest.mark.parametrize(
    ("action", "beginning"),
    [
        (never_answer(), b""),
        (slow_headers(bytes_per_second=50), b"HTTP/1.1 200 OK\r\nx-slow: ...."),
        (endless_headers(), b"HTTP/1.1 200 OK\r\nx-endless: yes\r\nx-endless: yes\r\n"),
        (endless_interim(), b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"),
        (slow_body(bytes_per_second=50), b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n...."),
        (endless_body(), b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4000\r\nxxxx"),
    ],
    ids=lambda value: value.name if isinstance(value, Action) else "",
)
async def test_an_endless_answer_continues_until_the_client_disconnects(action, beginning):
    async with asyncio.timeout(60), Receiver(action) as receiver:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(receiver.url).port)
        writer.write(RAW)
        assert await reader.readexactly(len(beginning)) == beginning
        await until(lambda: receiver.journal)
        assert receiver._connections
        writer.transport.abort()
        await until(lambda: not receiver._connections)
    assert [each.action for each in receiver.journal] == [action.name]


async def test_an_action_can_be_performed_before_anything_is_read():
    fates = {1: reset_before_response(), 2: garbage()}
    async with Receiver(connection=fates.get) as receiver:
        outcomes = []
        for _ in range(3):
            with contextlib.suppress(httpx.TransportError):
                outcomes.append((await post(receiver.url)).status_code)
        assert (outcomes, receiver.accepted, len(receiver.journal)) == ([200], 3, 1)


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("expired", "certificate has expired"),
        ("not_yet_valid", "certificate is not yet valid"),
        ("wrong_name", "IP address mismatch"),
        ("self_signed", "self-signed certificate"),
    ],
)
async def test_each_flaw_of_a_certificate_has_its_error(tmp_path, flaw, said):
    authority = Authority()
    trust = ssl.create_default_context(cafile=authority.write_to(tmp_path / "ca.pem"))

    async def run(certificate):
        async with (
            Receiver(tls=authority.context(certificate)) as receiver,
            patient.AsyncClient(verify=trust) as client,
        ):
            return (await client.post(receiver.url)).status_code

    assert await run(None) == 200
    with pytest.raises(httpx.ConnectError, match=said):
        await run(flaw)


def test_without_trustme_an_authority_names_the_package_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'resonant[testing]'")):
        Authority()
    assert refusal(capsys, "--tls", "valid") == (
        1,
        "certificates need the package trustme: pip install 'resonant[testing]'",
    )
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("trustme") for each in project["optional-dependencies"]["testing"])
