"""A `resonant serve` with sources, and the signed webhooks and plain events that are sent to it."""

import asyncio
import contextlib
import hmac
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from benches.processes import kept, python
from benches.surroundings import DATA_BYTES, ENDPOINT
from resonant.local.health import is_healthy
from resonant.local.server import free_port
from resonant.settings import Settings
from resonant.store import WorkerStore
from resonant.store.views.known_names import remember_endpoints

SCHEMES = ("github", "stripe")
_CONNECTIONS = 32
# As many requests may wait for their answers while others become due.
_MANY_CONNECTIONS = 200
# To open that many.
_LEAD_SECONDS = 0.5
_START_SECONDS = 30.0
_SECRET = "the secret of a bench"


@contextlib.contextmanager
def serving(settings: Settings, endpoint: str) -> Iterator[int]:
    """Run `resonant serve` with a source of each scheme, whose events go to one endpoint; yield its port."""
    asyncio.run(_remember(settings, endpoint))
    folder, port = settings.home.parent, free_port()
    os.environ["BENCH_SECRET"] = _SECRET
    sources = [
        {"name": each, "verify": each, "secret": "env:BENCH_SECRET", "endpoint": endpoint} for each in SCHEMES
    ]
    file = folder / "sources.yaml"
    file.write_text(json.dumps({"sources": sources}, indent=1))
    command = python("resonant", "serve", "--no-auth", "--port", str(port), "--sources", str(file))
    with kept(command, log=folder / "serve.log"):
        _wait_until_ready(port, folder / "serve.log")
        yield port


async def _remember(settings: Settings, endpoint: str) -> None:
    store = await WorkerStore.open(settings.store_url)
    await store.write(remember_endpoints, [endpoint])
    await store.close()


async def measured_rate(port: int, kind: str, count: int) -> float:
    """Return how many events per second are stored."""
    started = time.perf_counter()
    requests = [(started, each) for each in _requests(kind, count)]
    started = time.perf_counter()
    await _send_all(port, requests, _CONNECTIONS)
    return count / (time.perf_counter() - started)


async def latencies_at(port: int, kind: str, count: int, rate: float) -> list[float]:
    """Send at a rate per second; return the seconds from when each request was due until its answer."""
    requests = _requests(kind, count)
    started = time.perf_counter() + _LEAD_SECONDS
    return await _send_all(
        port, [(started + number / rate, each) for number, each in enumerate(requests)], _MANY_CONNECTIONS
    )


def _requests(kind: str, count: int) -> list[bytes]:
    return [_request(kind, f"{kind}-{time.time_ns()}-{number}") for number in range(count)]


async def _send_all(port: int, requests: Iterable[tuple[float, bytes]], connections: int) -> list[float]:
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    due, seconds = iter(requests), list[float]()
    await asyncio.gather(*(_send(*each, due, seconds) for each in opened))
    for _, writer in opened:
        writer.close()
    return seconds


async def _send(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    requests: Iterable[tuple[float, bytes]],
    seconds: list[float],
) -> None:
    for due_at, request in requests:
        if (wait := due_at - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 202 " not in head[:16]:
            raise RuntimeError(f"the server answered {head[:100]!r}")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
        seconds.append(time.perf_counter() - due_at)


def _request(kind: str, event_id: str) -> bytes:
    event = {"id": event_id, "type": "bench", "source": "/bench", "data": "x" * DATA_BYTES}
    body = json.dumps(event).encode()
    if kind == "plain":
        return _post(f"/events?endpoint={ENDPOINT}", body, "application/cloudevents+json")
    at = str(int(time.time()))
    if kind == "stripe":
        signature = hmac.new(_SECRET.encode(), f"{at}.".encode() + body, "sha256").hexdigest()
        headers = f"Stripe-Signature: t={at},v1={signature}\r\n"
    else:
        signature = hmac.new(_SECRET.encode(), body, "sha256").hexdigest()
        headers = f"X-GitHub-Event: push\r\nX-GitHub-Delivery: {event_id}\r\nX-Hub-Signature-256: sha256={signature}\r\n"
    return _post(f"/sources/{kind}", body, "application/json", headers)


def _post(target: str, body: bytes, kind: str, headers: str = "") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def _wait_until_ready(port: int, log: Path) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while not is_healthy(f"http://127.0.0.1:{port}", "readyz"):
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"resonant serve did not start: {log.read_text()[-300:]}")
        time.sleep(0.1)
