"""The endpoint block classes, for use in your own packages: ``from resonant.blocks import SinkBlock``.

Prefect imports this module in every process that looks up a block type (entry point group ``prefect.collections``), so
that any server or program with Resonant installed knows its block types. It makes the project's ``blocks`` package
importable, and does not change ``sys.path``. If a program has its own ``blocks`` package, that package takes precedence, and
Resonant's block types are unavailable.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from blocks import (  # the same objects, for type checkers
        EndpointBlock,
        SinkBlock,
        WebhookEndpoint,
        load_endpoint,
    )

__all__ = ["EndpointBlock", "SinkBlock", "WebhookEndpoint", "load_endpoint"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(project_blocks(), name)


def project_blocks() -> ModuleType:
    """Return the project's ``blocks`` package.

    Raises:
        ImportError: it cannot be imported, or another package of that name takes precedence.
    """
    from resonant.local.project import is_project, project_directory  # noqa: PLC0415 - only where it is needed

    found = find_spec("blocks")
    if found is None:
        folder = str(project_directory())
        sys.path.append(folder)
        try:
            return importlib.import_module("blocks")
        finally:
            sys.path.remove(folder)
    if found.origin is None or not is_project(Path(found.origin).resolve().parents[1]):
        raise ImportError(
            f"the blocks of Resonant are hidden by another package: {found.origin or found.name}"
        )
    return importlib.import_module("blocks")


# Every Prefect process imports this module, so a conflicting package must not raise an error before a class is used.
with contextlib.suppress(ImportError):
    project_blocks()
