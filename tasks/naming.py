"""Names of flow runs that say what ran, such as ``replay billing: 147 dead letters``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from resonant.display import visible

if TYPE_CHECKING:
    from collections.abc import Callable

# Prefect's own names are an adjective and an animal: fuzzy-otter.
_GENERATED = re.compile(r"[a-z]+-[a-z]+")
_LONGEST = 200


def named(what: str, *parameters: str, otherwise: str = "") -> Callable[[], str]:
    """Return a ``flow_run_name`` that keeps a name that a user has given.

    Args:
        what: what the run does, such as ``replay``.
        parameters: the first of these that has a value follows.
        otherwise: follows if none has a value.
    """

    def name() -> str:
        if flow_run.name and not _GENERATED.fullmatch(flow_run.name):
            return str(flow_run.name)
        values = (flow_run.parameters.get(each) for each in parameters)
        found = next((each for each in values if each), otherwise)
        text = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
        return visible(f"{what} {text}".strip())[:_LONGEST]

    return name


async def add_to_run_name(text: str, *, after: str) -> None:
    """Add a text to the name of the current flow run, if the name is ours.

    Args:
        text: the addition, such as ``147 dead letters``.
        after: what the run does, as given to ``named``.
    """
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is not None and run.name.startswith(f"{after} "):
        async with get_client() as client:
            await client.update_flow_run(run.id, name=f"{run.name}: {text}")
