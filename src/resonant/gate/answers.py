"""What a gate knows about a send and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_HANDLER_FAILED, _THROTTLED = 500, 429


@dataclass(frozen=True, slots=True)
class Sent:
    """A send: its start time, the gate's epoch at that time, and its number in this process."""

    at: float
    epoch: int
    number: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a send.

    Attributes:
        kind: ``delivered``, ``failed``, ``alive`` for a permanent failure with an answer (the endpoint is up), or
            ``local`` for a failure on the sender's side, which is ignored.
        duration: how long the request took, without the lag of this process, in seconds.
        status_code: None if the endpoint did not answer.
        retry_after: the Retry-After, in seconds.
        gone: whether the endpoint answered 410.
        delivery_id: identifies repeated 500s of one delivery, which do not indicate an outage.
    """

    kind: Literal["delivered", "failed", "alive", "local"]
    duration: float
    status_code: int | None = None
    retry_after: float | None = None
    gone: bool = False
    delivery_id: int = 0

    @property
    def works(self) -> bool:
        """Whether the endpoint works: it delivered, or rejected only this event."""
        return self.kind != "failed"

    @property
    def is_odd(self) -> bool:
        """Whether it is a 500: a bug that depends on the event, not on the load."""
        return self.status_code == _HANDLER_FAILED

    @property
    def is_refusal(self) -> bool:
        """Whether the endpoint asked to slow down, or to wait."""
        return bool(self.retry_after) or self.status_code == _THROTTLED
