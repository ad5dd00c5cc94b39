"""Loads endpoint blocks by name, and lists their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.blocks.core import Block, UnknownBlockType
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from blocks.endpoint import EndpointBlock
from blocks.installed import CAPABILITY, installed_sinks
from resonant.errors import EndpointError, SettingsError, UnknownEndpoint
from resonant.settings import first_problem
from resonant.suggestions import no_such_endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

DEFAULT_BLOCK_TYPE = "webhook-endpoint"


def block_slug(name: str) -> str:
    """Return the slug of an endpoint's block in Prefect: ``BLOCK-TYPE/NAME``."""
    return name if "/" in name else f"{DEFAULT_BLOCK_TYPE}/{name}"


async def load_endpoint(name: str) -> EndpointBlock:
    """Load an endpoint's block: ``NAME`` is a ``webhook-endpoint``, ``BLOCK-TYPE/NAME`` any other.

    Raises:
        UnknownEndpoint: no endpoint has that name.
        EndpointError: the block is not an endpoint, or is incompletely configured.
        SettingsError: for another block type, a module in ``RESONANT_SINKS`` has no sink.
    """
    try:
        if "/" in name:
            installed_sinks()
            block = await Block.aload(name)
        else:
            block = await _default_class().aload(name)
    except UnknownBlockType:
        raise EndpointError(
            f"endpoint {name!r} is of a block type that no package here defines: install its package, or name its "
            "module in RESONANT_SINKS"
        ) from None
    except (ValidationError, RuntimeError) as error:
        raise unusable_endpoint(name, error.__cause__ or error) from None
    except ValueError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            raise
        raise await unknown_endpoint(name) from None
    if not isinstance(block, EndpointBlock):
        raise EndpointError(f"{name!r} is a block, but not an endpoint: it does not subclass SinkBlock")
    return block


async def load_endpoints(
    load: Callable[[str], Awaitable[EndpointBlock]] = load_endpoint,
) -> dict[str, EndpointBlock | EndpointError]:
    """Load the block of every endpoint by name; the value is an error if its configuration is unusable.

    Args:
        load: loads an endpoint that is not a ``webhook-endpoint``.
    """
    found: dict[str, EndpointBlock | EndpointError] = {}
    async with get_client() as client:
        for slug in await endpoint_types(client):
            for document in await client.read_block_documents_by_type(slug, include_secrets=True):
                name = _name_of(document, slug)
                try:
                    if slug == DEFAULT_BLOCK_TYPE:
                        found[name] = _from_data(name, document.data)
                    else:
                        found[name] = await load(name)
                except EndpointError as error:
                    found[name] = error
                except SettingsError as error:
                    found[name] = EndpointError(str(error))
    return dict(sorted(found.items()))


async def require_endpoint(name: str) -> None:
    """Check that an endpoint with this name exists, even if it is unusable.

    Raises:
        UnknownEndpoint: no endpoint has that name.
    """
    async with get_client() as client:
        names = await endpoint_names(client)
    if name not in names:
        raise await unknown_endpoint(name)


async def unknown_endpoint(name: str) -> UnknownEndpoint:
    """Return the error for an unknown name, with suggestions."""
    async with get_client() as client:
        return UnknownEndpoint(no_such_endpoint(name, await endpoint_names(client)))


async def endpoint_names(client: PrefectClient) -> list[str]:
    """Return the names of all endpoints, including unusable ones."""
    names: list[str] = []
    for slug in await endpoint_types(client):
        documents = await client.read_block_documents_by_type(slug)
        names += [_name_of(document, slug) for document in documents]
    return sorted(names)


async def endpoint_types(client: PrefectClient) -> list[str]:
    """Return the slugs of the endpoint block types."""
    slugs: set[str] = set()
    # Each version of each block type has a schema. The server limits how many it returns, 200 by default.
    query = {"block_schemas": {"block_capabilities": {"all_": [CAPABILITY]}}}
    offset = 0
    while found := (
        await client.request("POST", "/block_schemas/filter", json={**query, "offset": offset})
    ).json():
        slugs |= {each["block_type"]["slug"] for each in found if each["block_type"]}
        offset += len(found)
    return sorted(slugs)


def _default_class() -> type[EndpointBlock]:
    """Return the class of ``DEFAULT_BLOCK_TYPE``. Prefect would import every installed collection to find it."""
    return next(
        each for each in EndpointBlock.__subclasses__() if each.get_block_type_slug() == DEFAULT_BLOCK_TYPE
    )


def _from_data(name: str, data: dict[str, Any]) -> EndpointBlock:
    try:
        return _default_class().model_validate(data)
    except ValidationError as error:
        raise unusable_endpoint(name, error) from None


def unusable_endpoint(name: str, error: BaseException) -> EndpointError:
    """Return the error for an unusable configuration. Only pydantic's own texts contain no secret for sure."""
    if isinstance(error, ValidationError):
        place, problem = first_problem(error)
        if place and error.errors()[0]["msg"].startswith("Input should "):
            return EndpointError(f"endpoint {name!r}: its {place[0]} {problem}: save it again")
    return EndpointError(f"endpoint {name!r} is not configured completely: save it again")


def _name_of(document: BlockDocument, slug: str) -> str:
    return str(document.name) if slug == DEFAULT_BLOCK_TYPE else f"{slug}/{document.name}"
