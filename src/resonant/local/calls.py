"""Calls that work with and without ``await``, as those of Prefect's blocks do."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Self, TypeVar

from prefect.context import FlowRunContext, TaskRunContext
from prefect.utilities.asyncutils import run_coro_as_sync

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
    if run := TaskRunContext.get():
        return run.task.isasync
    flow_run = FlowRunContext.get()
    return flow_run is None or flow_run.flow is None or flow_run.flow.isasync


def runs_in_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
