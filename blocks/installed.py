"""Finds the sinks of other packages: the entry point group ``resonant.sinks``, and the modules in ``RESONANT_SINKS``."""

from __future__ import annotations

import importlib
import inspect
import logging
from functools import cache
from importlib.metadata import entry_points

from prefect.blocks.core import Block

from resonant.errors import SettingsError
from resonant.settings import load_settings

logger = logging.getLogger(__name__)

GROUP = "resonant.sinks"
CAPABILITY = "deliver-events"


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
    for entry in entry_points(group=GROUP):
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
