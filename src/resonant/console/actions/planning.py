"""What the actions and their plans share."""

import math
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, TypeAlias
from urllib.parse import urlencode

from sqlalchemy import Connection

from resonant.console.asked import Action, Asked, Done, Page, path
from resonant.console.plans import Operation, Plan
from resonant.intake.problems import Problem
from resonant.store.views.known_names import why_no_such_ids, why_not_this_source, why_unknown
from resonant.store.views.selection import Selection

ActionOfPlan: TypeAlias = Callable[[Asked, Plan], Coroutine[Any, Any, Done]]

_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True, "on": True}


def plan_page(
    asked: Asked, action: str, what: Mapping[str, Any], counts: Mapping[str, Any], said: object, *lines: str
) -> Page:
    """Return the page of a plan, which has a form if anything is selected."""
    number = counts["selected" if action == "replay" else "purged" if action == "purge" else "would_cancel"]
    value = asked.console.plans.make(action, what, counts, now=asked.now) if number else None
    shown = {"action": action, "plan": value, "number": number, "said": str(said), "lines": lines}
    shown["with_permanent"] = urlencode({**asked.given, "include_permanent": 1}, doseq=True)
    return Page("plan.html", {"plan": value, **counts}, shown)


def of_plan(name: str) -> Callable[[ActionOfPlan], Action]:
    """Give an action the plan that was posted. The action runs once, even if the button is pressed twice."""

    def decorate(action: ActionOfPlan) -> Action:
        @wraps(action)
        async def act(asked: Asked) -> Done:
            only(asked, "plan")
            plan = asked.console.plans.read(name, asked.given.get("plan"), now=asked.now)
            return await asked.console.plans.once(plan_key(asked), lambda: action(asked, plan))

        return act

    return decorate


def plan_key(asked: Asked) -> str:
    """Return the signature of the plan that was posted, which no other plan has."""
    return asked.text("plan")[:43]


async def begin(asked: Asked, operation: Operation, text: str, document: Mapping[str, Any]) -> Done:
    """Begin an operation in the background; its page shows the progress."""
    audit_id = await asked.console.plans.start(operation)
    return Done(text, {"id": audit_id, **document, "dry_run": False}, path("replays", str(audit_id)))


def changed(counts: Mapping[str, Any]) -> Problem:
    """Return the refusal of a plan whose counts have changed."""
    now = ", ".join(f"{name} {value}" for name, value in counts.items() if value and name != "dry_run")
    return Problem(409, f"the plan no longer holds, nothing was done; now: {now or 'nothing is selected'}")


def until(selection: Selection, end: float) -> Selection:
    """Leave out what happened at ``end`` or later, in whole microseconds, which a flow's parameters keep."""
    end = math.ceil(end * 1e6) / 1e6
    return selection.model_copy(update={"until": min(end, selection.until or end)})


def flag(asked: Asked, name: str, *, otherwise: bool = False) -> bool:
    """Return whether a value is given as yes, in the words of a check box or of JSON."""
    if (value := str(asked.given.get(name, otherwise)).lower()) not in _FLAGS:
        raise Problem(422, f"{name} {value!r} is neither 1 nor 0")
    return _FLAGS[value]


def only(asked: Asked, *names: str) -> None:
    """Refuse other values."""
    if unknown := sorted(asked.given.keys() - {*names}):
        raise Problem(422, f"{', '.join(unknown)}: not known here: use {', '.join(names) or 'no value'}")


def checked(connection: Connection, selection: Selection, to: str | None = None) -> Selection:
    """Refuse unknown names with a suggestion (422), as the commands do; ``to`` is another endpoint."""
    why = why_unknown(connection, selection, to) or why_no_such_ids(connection, selection.ids)
    if why := why or why_not_this_source(connection, selection.ids, selection.source, option="source"):
        raise Problem(422, why)
    return selection
