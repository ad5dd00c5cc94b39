"""Loads endpoint blocks by name, and finds the sinks of other packages.

A package names its sinks in the entry point group ``resonant.sinks``; ``RESONANT_SINKS`` names modules.
"""

import asyncio
import importlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple
from weakref import WeakKeyDictionary

from prefect.blocks.core import Block, UnknownBlockType
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from resonant.blocks.documents import (
    CAPABILITY,
    DEFAULT_BLOCK_TYPE,
    MOST_NAMES,
    StoredEndpoint,
    endpoint_documents,
    webhook_endpoints,
)
from resonant.blocks.endpoint import EndpointBlock
from resonant.errors import EndpointError, SettingsError, UnknownEndpoint
from resonant.settings import first_problem, load_settings
from resonant.suggestions import no_such_endpoint

logger = logging.getLogger(__name__)

# The most missing names for which to search for similar ones.
_MOST_COMPARED = 10


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
            found, similar = await _read_together(name)
            if name in found:
                return _block_of(found[name])
            raise UnknownEndpoint(no_such_endpoint(name, similar))
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
        raise UnknownEndpoint(no_such_endpoint(name, await endpoint_documents())) from None
    if not isinstance(block, EndpointBlock):
        raise EndpointError(f"{name!r} is a block, but not an endpoint: it does not subclass SinkBlock")
    return block


async def _read_together(name: str) -> "_Found":
    """Read the document of a ``webhook-endpoint``. Reads that begin at the same time share a request."""
    loop = asyncio.get_running_loop()
    if loop not in _batches:
        names: set[str] = set()
        _batches[loop] = names, (reading := loop.create_task(_read_batch(names)))
        # If no caller waits for it any more, asyncio would log its error.
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
    names, reading = _batches[loop]
    names.add(name)
    return await asyncio.shield(reading)


class _Found(NamedTuple):
    """The endpoints found, by name, and the names to suggest for missing ones."""

    found: dict[str, StoredEndpoint]
    similar: Collection[str]


# The names that each event loop is about to read.
_batches: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[set[str], asyncio.Task[_Found]]] = (
    WeakKeyDictionary()
)


async def _read_batch(names: set[str]) -> _Found:
    await asyncio.sleep(0)  # until the other reads of this moment have begun
    del _batches[asyncio.get_running_loop()]
    found = await webhook_endpoints(names, include_secrets=True)
    # Finding similar names among thousands takes a second, which would block a drain.
    if 0 < len(names) - len(found) <= _MOST_COMPARED:
        similar = await endpoint_documents()
        return _Found(found, similar if len(similar) <= MOST_NAMES else ())
    return _Found(found, ())


async def load_endpoints(
    load: Callable[[str], Awaitable[EndpointBlock]] = load_endpoint,
) -> dict[str, EndpointBlock | EndpointError]:
    """Load the block of every endpoint by name; the value is an error if its configuration is unusable.

    Args:
        load: loads an endpoint that is not a ``webhook-endpoint``.
    """
    found: dict[str, EndpointBlock | EndpointError] = {}
    for name, document in (await endpoint_documents(include_secrets=True)).items():
        try:
            found[name] = await load(name) if "/" in name else _block_of(document)
        except ValidationError as error:
            found[name] = unusable_endpoint(name, error)
        except EndpointError as error:
            found[name] = error
        except SettingsError as error:
            found[name] = EndpointError(str(error))
    return found


def _block_of(document: StoredEndpoint) -> EndpointBlock:
    """Return the block of a ``webhook-endpoint``, with its name."""
    return _default_class().model_validate(document.data).named(document.name)


def _default_class() -> type[EndpointBlock]:
    """Return the class of ``DEFAULT_BLOCK_TYPE``. Prefect would import every installed collection to find it."""
    return next(
        each for each in EndpointBlock.__subclasses__() if each.get_block_type_slug() == DEFAULT_BLOCK_TYPE
    )


def unusable_endpoint(name: str, error: BaseException) -> EndpointError:
    """Return the error for an unusable configuration. Only pydantic's own texts contain no secret for sure."""
    if isinstance(error, ValidationError):
        place, problem = first_problem(error)
        if place and error.errors()[0]["msg"].startswith("Input should "):
            return EndpointError(f"endpoint {name!r}: its {place[0]} {problem}: save it again")
    return EndpointError(f"endpoint {name!r} is not configured completely: save it again")


def installed_sinks() -> list[type[Block]]:
    """Import the sinks of other packages, which registers them with Prefect; return their classes.

    A broken package is logged once, and does not stop deliveries to other endpoints.

    Raises:
        SettingsError: a module in ``RESONANT_SINKS`` cannot be imported, or has no sink.
    """
    return [*_of_packages(), *(kind for module in load_settings().sinks for kind in _of_setting(module))]


@cache
def _of_packages() -> tuple[type[Block], ...]:
    kinds: list[type[Block]] = []
    for entry in entry_points(group="resonant.sinks"):
        try:
            kinds += _sinks_in(entry.load())
        except Exception as error:  # noqa: BLE001 - a third-party module may raise anything
            logger.warning("sink %s (%s) is not available: %s", entry.name, entry.value, _reason(error))
    return tuple(kinds)


@cache
def _of_setting(module: str) -> tuple[type[Block], ...]:
    try:
        return tuple(_sinks_in(importlib.import_module(module)))
    except Exception as error:  # noqa: BLE001 - a third-party module may raise anything
        raise SettingsError(f"RESONANT_SINKS: {module}: {_reason(error)}") from None


def _sinks_in(found: object) -> list[type[Block]]:
    """Return the sinks of an entry point: the class itself, or the classes of its module."""
    candidates = list(vars(found).values()) if inspect.ismodule(found) else [found]
    kinds = [
        each
        for each in candidates
        if inspect.isclass(each)
        and issubclass(each, Block)
        and CAPABILITY in each.get_block_capabilities()
        and not inspect.isabstract(each)
    ]
    if not kinds:
        raise LookupError("it has no subclass of SinkBlock")
    return kinds


def _reason(error: Exception) -> str:
    """Return the first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]
