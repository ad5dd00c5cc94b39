"""`resonant serve` on SQLite: signed webhooks of sources against plain single events, in alternating rounds on one server.

The clients keep their connections open and send requests that were made before the round. ``--only PART`` selects by a part of the
name.
"""

import asyncio
import hmac
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benches.comparing import Comparison, is_chosen, say
from benches.processes import kept, python
from benches.surroundings import DATA_BYTES, ENDPOINT, empty_home
from resonant.local.health import is_healthy
from resonant.local.server import free_port
from resonant.settings import Settings
from resonant.store import WorkerStore
from resonant.store.views.known_names import remember_endpoints

EVENTS, ROUNDS = 1_000, 15
_PARTS = ("github", "stripe")
_RATIO_AT_LEAST = 0.9
_CONNECTIONS = 32
_WARM_UP_EVENTS = 500
_START_SECONDS = 30.0
_SECRET = "the secret of a bench"


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison]:
    """Measure, and return the results.

    Args:
        count: events of each side and round.
        rounds: rounds of each part.
        only: parts of names; empty for all.
    """
    with empty_home() as settings:
        return asyncio.run(
            _measure(settings, count, rounds, [each for each in _PARTS if is_chosen(each, only)])
        )


async def _measure(settings: Settings, count: int, rounds: int, chosen: list[str]) -> list[Comparison]:
    store = await WorkerStore.open(settings.store_url)
    await store.write(remember_endpoints, [ENDPOINT])
    await store.close()
    folder, port = settings.home.parent, free_port()
    os.environ["BENCH_SECRET"] = _SECRET
    sources = [
        {"name": each, "verify": each, "secret": "env:BENCH_SECRET", "endpoint": ENDPOINT} for each in _PARTS
    ]
    file = folder / "sources.yaml"
    file.write_text(json.dumps({"sources": sources}, indent=1))
    command = python("resonant", "serve", "--no-auth", "--port", str(port), "--sources", str(file))
    with kept(command, log=folder / "serve.log"):
        await asyncio.to_thread(_wait_until_ready, port, folder / "serve.log")
        return [await _compare(each, port, count, rounds) for each in chosen]


async def _compare(verify: str, port: int, count: int, rounds: int) -> Comparison:
    ours, plain = [], []
    await _rate(port, "plain", -1, _WARM_UP_EVENTS)
    await _rate(port, verify, -1, _WARM_UP_EVENTS)
    for number in range(rounds):
        plain.append(await _rate(port, "plain", number, count))
        ours.append(await _rate(port, verify, number, count))
        say(f"  {verify}: {ours[-1]:,.0f}/s signed, {plain[-1]:,.0f}/s plain")
    return Comparison(
        f"signed single events, {verify}", "/s", ours, plain, "for plain ones", ratio_at_least=_RATIO_AT_LEAST
    )


async def _rate(port: int, kind: str, number: int, count: int) -> float:
    """Return how many events per second are stored."""
    requests = iter([_request(kind, f"{kind}-{number}-{time.time_ns()}-{each}") for each in range(count)])
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(_CONNECTIONS)]
    started = time.perf_counter()
    await asyncio.gather(*(_send(*each, requests) for each in connections))
    seconds = time.perf_counter() - started
    for _, writer in connections:
        writer.close()
    return count / seconds


async def _send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Iterable[bytes]
) -> None:
    for request in requests:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 202 " not in head[:16]:
            raise RuntimeError(f"the server answered {head[:100]!r}")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))


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
