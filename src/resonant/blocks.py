"""The endpoint block classes, for use in your own packages: ``from resonant.blocks import SinkBlock``.

Prefect imports this module in every process that looks up a block type (entry point group ``prefect.collections``), so
that any server or program with Resonant installed knows its block types. Many projects have a package ``blocks`` of their
own, so only a process that runs Resonant's flows imports the project's package under this name; all others import it as
``resonant._blocks``.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from blocks import (  # the same objects, for type checkers
        EndpointBlock,
        ResonantNotification,
        SinkBlock,
        WebhookEndpoint,
        load_endpoint,
    )

__all__ = ["EndpointBlock", "ResonantNotification", "SinkBlock", "WebhookEndpoint", "load_endpoint"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(project_blocks(), name)


def __dir__() -> list[str]:
    # `prefect block register -m resonant.blocks` looks for the classes here.
    return __all__


def project_blocks() -> ModuleType:
    """Return the project's ``blocks`` package."""
    from resonant.local.project import is_project  # noqa: PLC0415 - only where it is needed

    found = find_spec("blocks")
    if found and found.origin and is_project(Path(found.origin).resolve().parents[1]):
        return importlib.import_module("blocks")
    return importlib.import_module("resonant._blocks")


project_blocks()
