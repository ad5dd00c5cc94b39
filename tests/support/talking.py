"""Requests to a test receiver."""

import asyncio
import contextlib
import re

import httpx
import pytest

from resonant.testing import (
    Receiver,
)
from resonant.testing.__main__ import main
from support import patient


async def post(url, *, webhook_id="evt_1", event_type="demo.ok", body=b"{}", **options):
    async with patient.AsyncClient() as client:
        headers = {"webhook-id": webhook_id, "ce-type": event_type}
        return await client.post(url, content=body, headers=headers, **options)


async def talk(url, request):
    """Send raw HTTP; return all bytes until the receiver closes, and how it closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    writer.write(request)
    received = b""
    try:
        while chunk := await asyncio.wait_for(reader.read(65536), 60):
            received += chunk
    except ConnectionError:
        return received, "reset"
    else:
        return received, "closed"
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


RAW = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def raw_exchange(action):
    async with Receiver(action) as receiver:
        return await talk(receiver.url, RAW)


def refusal(capsys, *options):
    """Run main with invalid options; return its exit code and the error line."""
    with pytest.raises(SystemExit) as end:
        main([*options])
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch("python -m resonant[.]testing: [^\n]+\n", said.err)
    return end.value.code, said.err.strip().partition(": ")[2]
