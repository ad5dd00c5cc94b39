"""What the actions and their plans share."""

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.intake.problems import Problem
from resonant.store.queue.causes import is_known
from resonant.store.views import known_names
from resonant.store.views.selection import Selection
from resonant.suggestions import did_you_mean

_FLAGS = {**dict.fromkeys(("", "0", "false"), False), **dict.fromkeys(("1", "true", "on"), True)}


def plan_page(
    asked: Asked,
    action: str,
    what: Mapping[str, Any],
    counts: Mapping[str, Any],
    *,
    number: int,
    **shown: Any,
) -> Page:
    """Return the page of a plan, which has a form unless ``number`` is 0."""
    value = asked.console.plans.make(action, what, counts, now=asked.now) if number else None
    return Page("plan.html", {"plan": value, **counts}, {"plan": value, "number": number, **shown})


def changed(counts: Mapping[str, Any]) -> Problem:
    """Return the refusal of a plan whose counts have changed."""
    now = ", ".join(f"{name} {value}" for name, value in counts.items() if value and name != "dry_run")
    return Problem(409, f"the plan no longer holds, nothing was done; now: {now or 'nothing is selected'}")


def until(selection: Selection, end: float) -> Selection:
    """Return the selection without what happened at ``end`` or later, in whole microseconds, which a flow's parameters keep."""
    end = math.ceil(end * 1e6) / 1e6
    return selection.model_copy(update={"until": min(end, selection.until or end)})


def flag(asked: Asked, name: str, *, otherwise: bool = False) -> bool:
    """Return whether a value is given as yes; the same words as of a check box, and JSON."""
    value = str(asked.given.get(name, otherwise)).lower()
    if value not in _FLAGS:
        raise Problem(422, f"{name} {value!r} is neither 1 nor 0")
    return _FLAGS[value]


def only(asked: Asked, *names: str) -> None:
    """Refuse other values."""
    if unknown := sorted(asked.given.keys() - {*names}):
        raise Problem(422, f"{', '.join(unknown)}: not known here: use {', '.join(names) or 'no value'}")


def checked(connection: Connection, selection: Selection, to: str | None = None) -> Selection:
    """Refuse a selection with unknown names, and an unknown endpoint ``to``, as the commands do.

    Raises:
        Problem: 422, with suggestions.
    """
    known = known_names.known_endpoints(connection)
    for name in (selection.endpoint, to):
        if name is not None and name not in known:
            raise Problem(422, f"no endpoint is named {name!r}{did_you_mean(name, known)}")
    why = selection.code and known_names.why_no_such_code(connection, selection.code)
    if selection.cause is not None and not is_known(connection, selection.cause):
        why = f"no dead letter has the cause {selection.cause!r}: /dead-letters lists the causes"
    why = why or known_names.why_no_such_ids(connection, selection.ids)
    why = why or known_names.why_not_this_source(connection, selection.ids, selection.source, option="source")
    if why:
        raise Problem(422, why)
    return selection
