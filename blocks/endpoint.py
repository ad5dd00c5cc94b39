"""The base classes of endpoint blocks, and loading them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from prefect.blocks.core import Block, UnknownBlockType
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, Field, HttpUrl, ValidationError

from blocks.installed import CAPABILITY, installed_sinks
from resonant.delivery.attempt import Destination
from resonant.errors import EndpointError, UnknownEndpoint
from resonant.sinks.base import CallableSink
from resonant.sinks.redaction import Redactor
from resonant.suggestions import no_such_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.orchestration import PrefectClient

    from resonant.events import Event
    from resonant.sinks.base import Receipt

DEFAULT_BLOCK_TYPE = "webhook-endpoint"
DOCUMENTATION_URL = HttpUrl("https://github.com/resonant-events/resonant/blob/main/docs/how-to/endpoints.md")


class EndpointBlock(Block, ABC):
    """A destination of events, configured by an operator."""

    _block_schema_capabilities = [CAPABILITY]  # noqa: RUF012 - Prefect declares it like this

    policy: str | None = Field(
        default=None, description="Name of the retry policy (RESONANT_POLICIES); the default policy if empty."
    )
    timeout: float = Field(
        default=15.0,
        gt=0,
        le=600,
        description="Time limit of one attempt in seconds, from connecting to the answer.",
    )
    concurrency: int | None = Field(
        default=None,
        ge=1,
        description="Maximum concurrent sends in one run; RESONANT_ENDPOINT_CONCURRENCY if empty.",
    )
    rate: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="Maximum sends per second, shared by all runs; no limit if empty. A run reads a change when it starts.",
    )

    @abstractmethod
    def open(self, name: str) -> Destination:
        """Return a destination that sends to this endpoint under this name.

        Raises:
            EndpointError: it cannot be used as configured.
        """


class SinkBlock(EndpointBlock, ABC):
    """The base class of custom endpoints: subclass it and implement ``deliver``.

    A package declares its subclass in the entry point group ``resonant.sinks``, and ``resonant up`` registers it.
    ``--endpoint BLOCK-TYPE/NAME`` sends events to it. See ``examples/spool_sink`` for an example.
    """

    @abstractmethod
    async def deliver(self, event: Event) -> Receipt | None:
        """Deliver the event once. Any exception is a failure, which is classified by its type.

        Args:
            event: ``event.body`` is its data as compact UTF-8 JSON.
        """

    def open(self, name: str) -> Destination:
        """Return a destination that removes the block's secrets from errors and results."""
        redactor = Redactor(_secrets(self))

        async def close() -> None:
            return None

        return Destination(
            name=name,
            sink=CallableSink(self.deliver),
            describe=redactor.message,
            close=close,
            timeout=self.timeout,
            policy=self.policy,
            concurrency=self.concurrency,
            rate=self.rate,
            redact=redactor.line,
        )


def block_slug(name: str) -> str:
    """Return the slug of an endpoint's block in Prefect: ``BLOCK-TYPE/NAME``."""
    return name if "/" in name else f"{DEFAULT_BLOCK_TYPE}/{name}"


async def load_endpoint(name: str) -> EndpointBlock:
    """Load an endpoint's block: ``NAME`` is a ``webhook-endpoint``, ``BLOCK-TYPE/NAME`` any other.

    Raises:
        UnknownEndpoint: no endpoint has that name.
        EndpointError: the block is not an endpoint, or is incompletely configured.
        SettingsError: a module in ``RESONANT_SINKS`` has no sink.
    """
    installed_sinks()
    try:
        block = await Block.aload(block_slug(name))
    except UnknownBlockType:
        raise EndpointError(
            f"endpoint {name!r} is of a block type that no package here defines: install its package, or name its "
            "module in RESONANT_SINKS"
        ) from None
    except (ValidationError, RuntimeError):
        # The original errors may quote the configuration, including secrets.
        raise EndpointError(f"endpoint {name!r} is not configured completely: save it again") from None
    except ValueError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            raise
        raise await unknown_endpoint(name) from None
    if not isinstance(block, EndpointBlock):
        raise EndpointError(f"{name!r} is a block, but not an endpoint: it does not subclass SinkBlock")
    return block


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
        names += [
            str(document.name) if slug == DEFAULT_BLOCK_TYPE else f"{slug}/{document.name}"
            for document in documents
        ]
    return sorted(names)


async def endpoint_types(client: PrefectClient) -> list[str]:
    """Return the slugs of the endpoint block types."""
    slugs: set[str] = set()
    # The server returns at most 200 schemas, the newest first. It has one for each version of each block type.
    query = {"block_schemas": {"block_capabilities": {"all_": [CAPABILITY]}}}
    offset = 0
    while found := (
        await client.request("POST", "/block_schemas/filter", json={**query, "offset": offset})
    ).json():
        slugs |= {each["block_type"]["slug"] for each in found if each["block_type"]}
        offset += len(found)
    return sorted(slugs)


def _secrets(value: Any, *, is_secret: bool = False) -> Iterator[str]:
    """Yield every secret of a block, including its lists and nested blocks, and each line of multi-line secrets."""
    if hasattr(value, "get_secret_value"):
        value, is_secret = value.get_secret_value(), True
    if isinstance(value, BaseModel):
        value = value.__dict__
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _secrets(each, is_secret=is_secret)
    elif is_secret and value is not None:
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        # A library may quote one line of a key.
        yield from (text, *text.splitlines())
