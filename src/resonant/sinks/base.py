"""The ``Sink`` protocol. A sink sends one event once, or raises: no judgement, no sleeping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resonant.events import Event


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a delivery left behind.

    Attributes:
        status_code: 200 to 299; None where there is no HTTP.
        excerpt: the first KiB of the answer, as text on one line.
        warning: what was wrong with the answer, though the event is delivered.
    """

    status_code: int | None = None
    excerpt: str = ""
    warning: str | None = None


class Sink(Protocol):
    """A destination of events."""

    async def send(self, event: Event) -> Receipt | None:
        """Deliver the event once; any exception says that it may not have been delivered."""


class CallableSink:
    """Make a sink of any coroutine function that raises when it could not deliver."""

    def __init__(self, function: Callable[[Event], Awaitable[object]]) -> None:
        self._function = function

    async def send(self, event: Event) -> Receipt | None:
        """Call the function; what it returns counts only if it is a ``Receipt``."""
        result = await self._function(event)
        return result if isinstance(result, Receipt) else None
