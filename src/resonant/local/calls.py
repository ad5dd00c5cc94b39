"""Calls from flows, which work with and without ``await``, and get ids that a retry repeats."""

import asyncio
import json
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self, TypeVar
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.hashing import hash_objects

T = TypeVar("T")


class Finished(Coroutine[Any, Any, Any]):
    """The result of a finished call. ``await`` and ``asyncio.run`` accept it, and return it."""

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
    """Return a call, which asynchronous code awaits; in synchronous code, run it and return its result.

    Code is asynchronous if an event loop runs in its thread, except in a synchronous flow or task that the loop calls.

    Args:
        call: the call.
        kind: makes a result that can be awaited, too, since synchronous code may pass it to ``asyncio.run``.
    """
    return call if _may_await() else kind(run_coro_as_sync(call))


def _may_await() -> bool:
    if not runs_in_loop():
        return False
    run = _innermost_run()
    code = run.task if isinstance(run, TaskRunContext) else run.flow if run else None
    return code is None or code.isasync


def _innermost_run() -> TaskRunContext | FlowRunContext | None:
    # In a flow that a task calls, Prefect keeps the context of the task.
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
    """Count a call in the surrounding run; return its place, which a retry repeats, or None outside of a run.

    The place is the task run, or else the flow run, and the number of the call in this try. A retry of a task run keeps its id, but a
    retry of the flow run makes new task runs. So a task run in a flow run is identified by its task, its parameters, and its number
    among the task runs with the same task and parameters, in the order of their first calls.
    """
    if (found := surrounding_try()) is None:
        return None
    with found.lock:
        found.calls += 1
        return f"{found.place} {found.calls}"


def surrounding_try() -> "_Try | None":
    """Return the try of the surrounding run; None outside of a run. The first call hashes the run's parameters in this thread."""
    run = _innermost_run()
    if isinstance(run, TaskRunContext):
        return _try_of(run, lambda: _place_of_task(run, FlowRunContext.get()))
    return _try_of(run, lambda: _place_of_flow(run)) if run and run.flow_run else None


def repeatable_id(place: str, *parts: str | None) -> str:
    """Return an event's id: a hash of the place of its call, and of parts that identify the event there."""
    return f"prefect-run-{sha256(json.dumps([place, *parts]).encode()).hexdigest()[:32]}"


@dataclass(slots=True)
class _Try:
    """One try of a run.

    Attributes:
        place: the place of the run; empty until the first call.
        calls: how many calls it has made.
        places: the places of its task runs that make calls.
        kinds: the numbers of these task runs by task and parameters.
        lock: guards the other attributes.
    """

    place: str = ""
    calls: int = 0
    places: dict[UUID, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)


# By the identity of the context: Prefect makes one for each try, and task runs in threads share that of their flow run.
_tries: dict[int, _Try] = {}
_lock = threading.Lock()


def _try_of(context: FlowRunContext | TaskRunContext, place: Callable[[], str]) -> _Try:
    key = id(context)
    with _lock:
        if key not in _tries:
            _tries[key] = _Try()
            weakref.finalize(context, _tries.pop, key).atexit = False
        found = _tries[key]
    with found.lock:  # of this run only, since large parameters take long to hash
        found.place = found.place or place()
    return found


def _place_of_flow(flow: FlowRunContext) -> str:
    # A retry makes a new run of a subflow, for the same task run.
    parent = flow.flow_run and flow.flow_run.parent_task_run_id
    inputs = parent and _hash(flow.parameters)
    return f"{parent} {inputs}" if inputs else str(_id_of(flow))


def _place_of_task(task: TaskRunContext, flow: FlowRunContext | None) -> str:
    run = task.task_run.id
    # In another process, the numbers of the flow run's task runs are unknown.
    if not flow or not flow.flow_run or flow.detached:
        return str(run)
    surrounding = _try_of(flow, lambda: _place_of_flow(flow))
    if run not in surrounding.places:  # a retry of the task run may see changed parameters
        inputs = _hash(task.parameters)
        kind = f"{task.task.task_key} {inputs}"
        with surrounding.lock:
            place = f"{surrounding.place} {kind} {surrounding.kinds[kind]}" if inputs else str(run)
            surrounding.kinds[kind] += 1
            surrounding.places[run] = place
    return surrounding.places[run]


def _hash(parameters: dict[str, Any] | None) -> str | None:
    """Return a hash of the parameters of a run; None if they cannot be serialised."""
    # Prefect would read an iterator to its end.
    if any(isinstance(each, Iterator) for each in (parameters or {}).values()):
        return None
    return hash_objects(parameters)


def _id_of(flow: FlowRunContext | None) -> UUID | None:
    return flow.flow_run.id if flow and flow.flow_run else None
