"""The ``Sink`` protocol. A sink sends one event once, or raises; it does not classify errors or wait."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from resonant.events import Event, Lease

_INTERRUPTIONS = (KeyboardInterrupt, SystemExit, GeneratorExit)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of a successful send.

    Attributes:
        status_code: 200 to 299; None if the sink does not use HTTP.
        excerpt: the first KiB of the answer, as text on one line.
        warning: a problem with the answer, although the event is delivered.
    """

    status_code: int | None = None
    excerpt: str = ""
    warning: str | None = None


class TraceHeaders(NamedTuple):
    """The trace context of an attempt's span, as W3C Trace Context sends it."""

    traceparent: str
    tracestate: str | None


# Set while an attempt whose span is recorded is sent.
attempt_trace: ContextVar[TraceHeaders | None] = ContextVar("attempt_trace", default=None)

# Set while an attempt is sent: the delivery, with its attempts before this one.
attempt_lease: ContextVar[Lease | None] = ContextVar("attempt_lease", default=None)


class Sink(Protocol):
    """A destination of events."""

    async def send(self, event: Event) -> Receipt | None:
        """Deliver the event once; any exception means that it may not have been delivered."""


class CallableSink:
    """A sink from a coroutine function that raises if it cannot deliver.

    The function runs in a task of its own. If it cancels that task, or leaves a timeout behind that does so later, nothing
    else is cancelled.
    """

    def __init__(self, function: Callable[[Event], Awaitable[object]]) -> None:
        self._function = function

    async def send(self, event: Event) -> Receipt | None:
        """Call the function; a result other than a ``Receipt`` is ignored."""
        result = await asyncio.create_task(self._result(event))
        if isinstance(result, _INTERRUPTIONS):
            raise result
        return result if isinstance(result, Receipt) else None

    async def _result(self, event: Event) -> object:
        try:
            return await self._function(event)
        except _INTERRUPTIONS as interruption:
            return interruption  # a task that raises it would stop the event loop before the caller sees it
