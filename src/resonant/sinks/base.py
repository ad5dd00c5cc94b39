"""The ``Sink`` protocol. A sink sends one event once, or raises; it does not classify errors or wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resonant.events import Event


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


class Sink(Protocol):
    """A destination of events."""

    async def send(self, event: Event) -> Receipt | None:
        """Deliver the event once; any exception means that it may not have been delivered."""


class CallableSink:
    """A sink from a coroutine function that raises if it cannot deliver."""

    def __init__(self, function: Callable[[Event], Awaitable[object]]) -> None:
        self._function = function

    async def send(self, event: Event) -> Receipt | None:
        """Call the function; a result other than a ``Receipt`` is ignored."""
        result = await self._function(event)
        return result if isinstance(result, Receipt) else None
