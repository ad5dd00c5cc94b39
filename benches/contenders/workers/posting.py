"""Post an event to the receiver at ``BENCH_URL``; any answer except success raises."""

import os
import threading

import httpx

URL = os.environ["BENCH_URL"]
_own = threading.local()


def post(event_id: str, body: str) -> None:
    """Send one event with this thread's own client."""
    client: httpx.Client | None = getattr(_own, "client", None)
    if client is None:
        client = _own.client = httpx.Client(trust_env=False)
    client.post(URL, content=body, headers=headers(event_id)).raise_for_status()


async def apost(client: httpx.AsyncClient, event_id: str, body: str) -> None:
    """Send one event."""
    answer = await client.post(URL, content=body, headers=headers(event_id))
    answer.raise_for_status()


def async_client() -> httpx.AsyncClient:
    """Return a client for all sends of a process."""
    from httpx_aiohttp import AiohttpTransport

    return httpx.AsyncClient(transport=AiohttpTransport(), trust_env=False)


def headers(event_id: str) -> dict[str, str]:
    """Return the headers common to all senders."""
    return {"content-type": "application/json", "webhook-id": event_id}
