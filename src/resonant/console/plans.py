"""Plans: what an operator has seen before an action that cannot be undone. The action changes only what existed then."""

import asyncio
import base64
import hmac
import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.intake.problems import Problem
from resonant.store.queue.causes import is_known
from resonant.store.views.known_names import (
    known_endpoints,
    why_no_such_code,
    why_no_such_ids,
    why_not_this_source,
)
from resonant.store.views.selection import Selection
from resonant.suggestions import did_you_mean

SECONDS = 600.0
_STOP_SECONDS = 5.0
# If the store's clock advanced less than that of this process by more than this, it was set back.
_DRIFT_SECONDS = 5.0
_FLAGS = {**dict.fromkeys(("", "0", "false"), False), **dict.fromkeys(("1", "true", "on"), True)}

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What was planned.

    Attributes:
        what: the action's parameters, as JSON values.
        counts: what the operator saw.
    """

    what: dict[str, Any]
    counts: dict[str, Any]


class Plans:
    """Makes plans, as opaque values that nobody else can make, and runs them. They end with the process, or after ten minutes.

    Args:
        steady: a monotonic clock, in seconds.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._key = secrets.token_bytes()
        self._steady = steady
        self._running: dict[asyncio.Task[object], asyncio.Future[int]] = {}
        self.failures: dict[int, str] = {}

    def make(self, action: str, what: Mapping[str, Any], counts: Mapping[str, Any], *, now: float) -> str:
        """Return the value of a plan for an action."""
        text = json.dumps([action, what, counts, now, self._steady()]).encode()
        return base64.urlsafe_b64encode(hmac.digest(self._key, text, "sha256") + text).decode()

    def read(self, action: str, value: object, *, now: float) -> Plan:
        """Return the plan of a value.

        Raises:
            Problem: 409, it has ended; 422, it is not a plan for this action.
        """
        try:
            raw = base64.b64decode(str(value or ""), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        signature, text = raw[:32], raw[32:]
        if not hmac.compare_digest(signature, hmac.digest(self._key, text, "sha256")):
            raise Problem(422, "plan: not a plan of this console: ask for a new one with GET")
        of, what, counts, moment, began_at = json.loads(text)
        if of != action:
            raise Problem(422, f"plan: it is for {of}, not for {action}")
        elapsed = self._steady() - began_at
        if not (max(0.0, elapsed - _DRIFT_SECONDS) <= now - moment <= SECONDS and elapsed <= SECONDS):
            why = "is older than ten minutes" if now - moment > SECONDS else "was made by another clock"
            raise Problem(409, f"the plan {why}, nothing was done: ask for a new one")
        return Plan(what, counts)

    async def start(self, operation: Callable[[Callable[[int], None]], Coroutine[Any, Any, object]]) -> int:
        """Run an operation in the background; return the id of its row of the audit.

        Args:
            operation: gets a function, which it calls with this id once it has written the row.
        """
        began: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(operation(began.set_result))
        self._running[task] = began
        task.add_done_callback(self._end)
        await asyncio.wait((task, began), return_when=asyncio.FIRST_COMPLETED)
        if not began.done():
            task.result()  # raises why it did not begin
        return began.result()

    def task(self, audit_id: int) -> asyncio.Task[object] | None:
        """Return the operation with this row of the audit, if it runs in this process."""
        found = (task for task, began in self._running.items() if began.done() and began.result() == audit_id)
        return next(found, None)

    async def stop(self, *tasks: asyncio.Task[object]) -> None:
        """Stop these operations, or all; what they have done stays."""
        if stopped := tasks or tuple(self._running):
            for task in stopped:
                task.cancel()
            await asyncio.wait(stopped, timeout=_STOP_SECONDS)

    def _end(self, task: asyncio.Task[object]) -> None:
        began = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) and began.done():
            logger.error("the operation %d of the audit failed: %s", began.result(), error)
            self.failures[began.result()] = str(error)


def plan_page(
    asked: Asked, action: str, what: Mapping[str, Any], counts: Mapping[str, Any], *, number: int, **shown: Any
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
    known = known_endpoints(connection)
    for name in (selection.endpoint, to):
        if name is not None and name not in known:
            raise Problem(422, f"no endpoint is named {name!r}{did_you_mean(name, known)}")
    why = selection.code and why_no_such_code(connection, selection.code)
    if selection.cause is not None and not is_known(connection, selection.cause):
        why = f"no dead letter has the cause {selection.cause!r}: /dead-letters lists the causes"
    why = why or why_no_such_ids(connection, selection.ids)
    why = why or why_not_this_source(connection, selection.ids, selection.source, option="source")
    if why:
        raise Problem(422, why)
    return selection
