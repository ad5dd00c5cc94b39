"""Descriptive names of flow runs, such as ``replay billing: 147 dead letters``."""

import re
from collections.abc import Callable, Mapping

from prefect.runtime import flow_run

from resonant.display import visible

# The names that Prefect generates: on its server, in the run form of its UI, and in that of its new UI.
_GENERATED = re.compile(
    r"[a-z]+-[a-z]+"  # fuzzy-otter
    r"|(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi|chi|psi"
    r"|omega)\d*(?:-[a-z]+)*"  # tau685-thanatos-a
    r"|(?:Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|Practical|Ergonomic"
    r"|Handcrafted|Tasty|Handmade|Incredible)-.{1,6}"  # Awesome-Puggle
)
_LONGEST = 200


def named(
    what: str, *parameters: str, otherwise: str = "", instead: Mapping[str, str] | None = None
) -> Callable[[], str]:
    """Return a ``flow_run_name`` function that keeps a name given by the user.

    Args:
        what: the action, such as ``replay``.
        parameters: names of parameters; the value of the first one that is set follows the action.
        otherwise: follows the action if no parameter is set.
        instead: the whole name of a run in which a parameter is set, by the name of that parameter.
    """

    def name() -> str:
        if flow_run.name and not _GENERATED.fullmatch(flow_run.name):
            return str(flow_run.name)
        for parameter, text in (instead or {}).items():
            if flow_run.parameters.get(parameter):
                return text
        values = (flow_run.parameters.get(each) for each in parameters)
        found = next((each for each in values if each), otherwise)
        text = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
        prefix = "dry run: " if flow_run.parameters.get("dry_run") else ""
        return visible(f"{prefix}{what} {text}".strip())[:_LONGEST]

    return name
