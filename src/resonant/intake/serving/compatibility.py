"""The undocumented names of uvicorn that the server uses: ``check_uvicorn`` looks for each at start, as for those of Prefect."""

import importlib
from importlib.metadata import version
from inspect import isfunction
from typing import Any

from resonant.errors import ResonantError

# The tested releases of uvicorn. Newer ones are accepted if they have every name.
TESTED_UVICORN = ">=0.53,<0.55"

_HTTP = "uvicorn.protocols.http"
# What `connections.py` and `server.py` override, call or set, by module and class.
NAMES = {
    (f"{_HTTP}.httptools_impl", "HttpToolsProtocol"): (
        *("_unsupported_upgrade_warning", "connections", "cycle", "flow", "headers", "loop", "on_body"),
        *("on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete"),
        *("parser", "pipeline", "send_400_response", "shutdown", "transport", "url"),
    ),
    (f"{_HTTP}.httptools_impl", "RequestResponseCycle"): (
        *("body", "disconnected", "keep_alive", "message_event", "more_body"),
        *("response_complete", "response_started"),
    ),
    (f"{_HTTP}.flow_control", "FlowControl"): ("pause_reading", "resume_reading"),
    ("uvicorn", "Server"): ("capture_signals", "should_exit", "startup"),
}


def check_uvicorn() -> None:
    """Check the names.

    Raises:
        ResonantError: the installed uvicorn lacks one.
    """
    for (module, owner), names in NAMES.items():
        found = _names_of(module, owner)
        if missing := sorted({*names} - found):
            raise ResonantError(
                f"uvicorn {version('uvicorn')} has no {owner}.{missing[0]}, which Resonant {version('resonant')} needs to limit "
                f"connections: pip install 'uvicorn{TESTED_UVICORN}'"
            )


def _names_of(module: str, owner: str) -> set[str]:
    """Return the attributes of a class, and those that its methods use."""
    try:
        found: Any = getattr(importlib.import_module(module), owner)
    except (ImportError, AttributeError):
        return set()
    methods = (each for each in vars(found).values() if isfunction(each))
    return {*dir(found)}.union(*(each.__code__.co_names for each in methods))
