"""Reads what Prefect stores of endpoints, even of those whose block cannot be loaded."""

import math
from collections.abc import Collection
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from prefect.client.orchestration import get_client

from resonant.errors import UnknownEndpoint
from resonant.suggestions import no_such_endpoint

CAPABILITY = "deliver-events"
DEFAULT_BLOCK_TYPE = "webhook-endpoint"
# The most names in one request, and the most stored names among which to search for similar ones.
MOST_NAMES = 1_000


class StoredEndpoint(NamedTuple):
    """An endpoint as Prefect stores it.

    Attributes:
        id: of its block document.
        name: of the endpoint.
        data: the fields of its block.
    """

    id: UUID
    name: str
    data: dict[str, Any]


async def webhook_endpoints(
    names: Collection[str], *, include_secrets: bool = False
) -> dict[str, StoredEndpoint]:
    """Return those endpoints of type ``webhook-endpoint`` that have these names, by name."""
    found: dict[str, StoredEndpoint] = {}
    wanted = sorted(names)
    for start in range(0, len(wanted), MOST_NAMES):
        some = wanted[start : start + MOST_NAMES]
        query = {
            "block_types": {"slug": {"any_": [DEFAULT_BLOCK_TYPE]}},
            "block_documents": {"name": {"any_": some}},
            "include_secrets": include_secrets,
        }
        found |= {each.name: each for each in await _read_documents(query, most=len(some))}
    return found


async def require_endpoint(name: str) -> StoredEndpoint:
    """Return what Prefect stores of an endpoint, even an unusable one, without its secrets.

    Raises:
        UnknownEndpoint: no endpoint has that name; the message has suggestions.
    """
    documents = await endpoint_documents()
    if name not in documents:
        raise UnknownEndpoint(no_such_endpoint(name, documents))
    return documents[name]


async def endpoint_documents(*, include_secrets: bool = False) -> dict[str, StoredEndpoint]:
    """Return what Prefect stores of every endpoint by name, including unusable ones, in the order of their names."""
    query = {
        "block_schemas": {"block_capabilities": {"all_": [CAPABILITY]}},
        "include_secrets": include_secrets,
    }
    documents = await _read_documents(query)
    return {each.name: each for each in sorted(documents, key=attrgetter("name"))}


async def _read_documents(query: dict[str, Any], *, most: float = math.inf) -> list[StoredEndpoint]:
    documents: list[StoredEndpoint] = []
    async with get_client() as client:
        # The server limits how many it returns, 200 by default.
        while len(documents) < most and (
            page := (
                await client.request(
                    "POST", "/block_documents/filter", json={**query, "offset": len(documents)}
                )
            ).json()
        ):
            # Prefect's `BlockDocument` would keep a copy of the block's schema for each endpoint.
            documents += map(_stored_endpoint, page)
    return documents


def _stored_endpoint(document: dict[str, Any]) -> StoredEndpoint:
    name = endpoint_name(document["block_type"]["slug"], document["name"])
    return StoredEndpoint(UUID(document["id"]), name, document["data"])


def endpoint_name(block_type: str, name: str) -> str:
    """Return an endpoint's name, given its block type and the name of its block."""
    return f"{block_type}/{name}".removeprefix(f"{DEFAULT_BLOCK_TYPE}/")
