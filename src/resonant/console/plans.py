"""Plans: what an operator has seen before an action that cannot be undone. The action changes only what existed then."""

import asyncio
import base64
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from resonant.intake.problems import Problem

SECONDS = 600.0
_STOP_SECONDS = 5.0
# If the store's clock advanced less than that of this process by more than this, it was set back.
_DRIFT_SECONDS = 5.0

R = TypeVar("R")
Operation: TypeAlias = Callable[..., Coroutine[Any, Any, object]]
logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """The action's parameters, as JSON values, and what the operator saw."""

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
        self._answers: dict[str, asyncio.Task[Any]] = {}
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

    async def once(self, plan: str, action: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Return the answer of an action; a plan that is posted again gets the same one. After an error, it may act again."""
        if (task := self._answers.get(plan)) is None:
            self._answers[plan] = task = asyncio.create_task(action())
            task.add_done_callback(partial(self._forget_failure, plan))
        return await asyncio.shield(task)

    async def start(self, operation: Operation) -> int:
        """Run an operation, which calls ``on_begin`` with the id of its row of the audit; return this id once it is known."""
        began: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(operation(on_begin=began.set_result))
        self._running[task] = began
        task.add_done_callback(self._end)
        return await began

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

    def _forget_failure(self, plan: str, task: asyncio.Task[object]) -> None:
        if task.cancelled() or task.exception():
            del self._answers[plan]

    def _end(self, task: asyncio.Task[object]) -> None:
        began = self._running.pop(task)
        error = None if task.cancelled() else task.exception()
        if not began.done():
            began.set_exception(error or Problem(503, "the console stops, nothing was done"))
        elif error:
            logger.error("the operation %d of the audit failed: %s", began.result(), error)
            self.failures[began.result()] = str(error)
