"""Warnings about paused deployments, work pools and work queues, without Prefect's client, whose import takes seconds."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from resonant.errors import ServerError
from resonant.local.note import is_held, lock_of_up
from resonant.local.server import configured, known_url
from resonant.settings import Settings

_SECONDS = 3.0
_OK, _NOT_FOUND = 200, 404

Document = Mapping[str, Any]


def paused(
    deployment: Document, name: str, pool: Document | None = None, queue: Document | None = None
) -> Iterator[str]:
    """Yield a warning for each part that is paused.

    Args:
        deployment, pool, queue: as Prefect's API describes them.
        name: FLOW/DEPLOYMENT.
    """
    if deployment.get("paused"):
        yield f"deployment {name} is paused: events still create runs, which wait if no process or worker runs them"
    pool, queue = pool or {}, queue or {}
    if pool.get("is_paused"):
        yield f"work pool {pool['name']} is paused: runs wait until `prefect work-pool resume {pool['name']}`"
    if queue.get("is_paused"):
        resume = f"prefect work-queue resume {queue['name']} --pool {pool.get('name')}"
        yield f"work queue {queue['name']} is paused: runs wait until `{resume}`"


def ask_what_is_paused(settings: Settings, endpoints: Sequence[str]) -> dict[str, list[str]]:
    """Return the warnings about endpoints that are deployments on the configured server, or on that of ``resonant up``.

    Raises:
        ServerError: no server is known, or it does not answer within seconds.
    """
    import httpx

    url = known_url(settings)
    problem = "set PREFECT_API_URL"
    if url is not None:
        try:
            return asyncio.run(_ask(url, endpoints))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, KeyError) as error:
            problem = f"{url}: {str(error) or 'no answer'}"
    elif is_held(lock_of_up(settings)):
        problem = "the server of `resonant up` does not answer: it may be restarting"
    raise ServerError(f"cannot ask Prefect which deployments are paused: {problem}")


async def _ask(url: str, endpoints: Sequence[str]) -> dict[str, list[str]]:
    import httpx

    key, password = configured("PREFECT_API_KEY"), configured("PREFECT_API_AUTH_STRING")
    user, _, secret = (password or "").partition(":")
    options: dict[str, Any] = {"auth": (user, secret)} if password else {}
    if key and not password:
        options["headers"] = {"Authorization": f"Bearer {key}"}
    async with (
        asyncio.timeout(_SECONDS),
        httpx.AsyncClient(base_url=url, timeout=_SECONDS, trust_env=False, **options) as client,
    ):

        async def get(*path: str) -> Document | None:
            answer = await client.get("/".join(quote(each, safe="") for each in path))
            if answer.status_code not in {_OK, _NOT_FOUND}:
                raise ValueError(f"it answered {answer.status_code}")
            return dict(answer.json()) if answer.status_code == _OK else None

        found = await asyncio.gather(*(_warnings(get, name) for name in endpoints))
    return {name: warnings for name, warnings in zip(endpoints, found, strict=True) if warnings}


async def _warnings(get: Any, endpoint: str) -> list[str]:
    kind, _, name = endpoint.partition("/")
    endpoint_block = await get("block_types", "slug", kind, "block_documents", "name", name)
    if endpoint_block is None or endpoint_block["data"].get("api_url"):
        return []
    block = endpoint_block["data"]
    if (deployment := await get("deployments", "name", *block["deployment"].split("/"))) is None:
        return [f"Prefect has no deployment {block['deployment']}: `prefect deployment ls` lists them"]
    pool = queue = None
    if where := deployment.get("work_pool_name"):
        wanted = block.get("work_queue") or deployment.get("work_queue_name") or "default"
        pool, queue = await get("work_pools", where), await get("work_pools", where, "queues", wanted)
    return [*paused(deployment, block["deployment"], pool, queue)]
