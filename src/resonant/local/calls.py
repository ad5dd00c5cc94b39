"""Calls from flows: they work with and without ``await``, as those of Prefect's blocks do, and a retry repeats their ids."""

import asyncio
import json
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self, TypeVar
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.hashing import hash_objects

T = TypeVar("T")


class Finished(Coroutine[Any, Any, Any]):
    """The result of a call that has ended; ``await`` and ``asyncio.run`` accept it, too, and return it."""

    __slots__ = ()

    def send(self, _value: Any) -> Any:
        """End at once, as a coroutine that waits for nothing."""
        raise StopIteration(self)

    def throw(self, *error: Any) -> Any:
        """Raise the error."""
        return super().throw(*error)

    def close(self) -> None:
        """Do nothing."""

    def __await__(self) -> Generator[None, None, Self]:
        """Return the result."""
        yield from ()
        return self


class StoredId(str, Finished):
    """The id of a stored event."""

    __slots__ = ()


def both_ways(call: Coroutine[Any, Any, T], kind: Callable[[T], Finished]) -> Any:
    """Return a call for its caller to await; in synchronous code, run it and return its result.

    Code is asynchronous if an event loop runs in its thread, except in a synchronous flow or task that the loop has called.

    Args:
        call: the call.
        kind: makes a result that may be awaited, too: synchronous code may run an event loop of its own.
    """
    return call if _may_await() else kind(run_coro_as_sync(call))


def _may_await() -> bool:
    if not runs_in_loop():
        return False
    run = _innermost_run()
    code = run.task if isinstance(run, TaskRunContext) else run.flow if run else None
    return code is None or code.isasync


def _innermost_run() -> TaskRunContext | FlowRunContext | None:
    # In a flow that a task calls, Prefect leaves the context of the task.
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    return task if task and _id_of(flow) in (None, task.task_run.flow_run_id) else flow


def runs_in_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def place_of_call() -> str | None:
    """Count a call in the surrounding run; return its place, which is the same when a retry repeats it, or None outside of a run.

    The place is the task run, or else the flow run, and the number of the call in this try. The id of a task run survives its own
    retry, but not that of its flow run. So a task run in a flow run is identified by its task, its parameters, and
    its number among the task runs with the same task and parameters, in the order of their first calls.
    """
    run = _innermost_run()
    with _lock:
        if isinstance(run, TaskRunContext):
            found = _try_of(run, lambda: _place_of_task(run, FlowRunContext.get()))
        elif run and run.flow_run:
            found = _try_of(run, lambda: _place_of_flow(run))
        else:
            return None
        found.calls += 1
        return f"{found.place} {found.calls}"


def repeatable_id(place: str, *parts: str | None) -> str:
    """Return the id of the event of a call: a hash of the call's place and of parts that identify the event there."""
    return f"prefect-run-{sha256(json.dumps([place, *parts]).encode()).hexdigest()[:32]}"


@dataclass(slots=True)
class _Try:
    """One try of a run.

    Attributes:
        place: the place of the run.
        calls: how many calls it has made.
        runs: the number of each of its task runs that makes calls, among those with the same task and parameters.
    """

    place: str
    calls: int = 0
    runs: defaultdict[str, dict[UUID, int]] = field(default_factory=lambda: defaultdict(dict))


# By the identity of their contexts: Prefect makes one for each try, and tasks in threads share that of their flow run.
_tries: dict[int, _Try] = {}
_lock = threading.RLock()


def _try_of(context: FlowRunContext | TaskRunContext, place: Callable[[], str]) -> _Try:
    key = id(context)
    if key not in _tries:
        _tries[key] = _Try(place())
        weakref.finalize(context, _tries.pop, key).atexit = False
    return _tries[key]


def _place_of_flow(flow: FlowRunContext) -> str:
    # A retry makes a new run of a subflow, for the same task run.
    parent = flow.flow_run and flow.flow_run.parent_task_run_id
    inputs = parent and hash_objects(flow.parameters)
    return f"{parent} {inputs}" if inputs else str(_id_of(flow))


def _place_of_task(task: TaskRunContext, flow: FlowRunContext | None) -> str:
    # In another process, the numbers of the flow run's task runs are unknown.
    inputs = hash_objects(task.parameters) if flow and flow.flow_run and not flow.detached else None
    if not flow or not inputs:
        return str(task.task_run.id)
    surrounding = _try_of(flow, lambda: _place_of_flow(flow))
    kind = f"{task.task.task_key} {inputs}"
    number = surrounding.runs[kind].setdefault(task.task_run.id, len(surrounding.runs[kind]))
    return f"{surrounding.place} {kind} {number}"


def _id_of(flow: FlowRunContext | None) -> UUID | None:
    return flow.flow_run.id if flow and flow.flow_run else None
