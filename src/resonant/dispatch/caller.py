"""Context that a command passes to a flow in its own process, outside of the flow's parameters.

A flow's parameters are JSON, which Prefect stores and shows, so they cannot carry a tracker. Everything else is an
argument: a flow opens the dispatcher and passes it to its task runs.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resonant.dispatch.tracking import Tracker
    from resonant.store import WorkerStore


@dataclass(frozen=True, slots=True)
class Caller:
    """A command that runs a flow. All fields are None if a worker or a script runs the flow.

    Attributes:
        tracker: the deliveries that the command waits for. The flow adds the deliveries that it claims, and ends when all of
            them have ended.
        who: the operator, for the audit log.
        store: the command's open store, which the flow uses instead of opening it again.
    """

    tracker: Tracker | None = None
    who: str | None = None
    store: WorkerStore | None = None


_caller: ContextVar[Caller] = ContextVar("resonant_caller", default=Caller())  # noqa: B039 - frozen


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """Make this the caller of the flows that the block runs."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def get_caller() -> Caller:
    """Return the command that called the running flow."""
    return _caller.get()
