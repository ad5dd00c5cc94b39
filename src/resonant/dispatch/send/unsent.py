"""The reasons why an attempt sends nothing."""

from dataclasses import dataclass

from resonant.store.shared.gates import Gate


class Unsent(Exception):
    """Nothing was sent in this attempt, or its lease was lost before it was recorded."""


class LeaseLost(Unsent):
    """Another worker has the lease. Nothing may be sent, and only history was written."""


class TimeIsUp(Unsent):
    """The run is over, and this delivery was released before its send."""


class Expired(Unsent):
    """The event expired before its send, and its delivery was given up without an attempt."""

    def __str__(self) -> str:
        return "nothing was sent: the event's expirytime has passed; its delivery is a dead letter (expired)"


@dataclass(eq=False)
class Held(Unsent):
    """The gate holds the delivery, which is released without charging an attempt.

    Attributes:
        gate: the endpoint's gate.
        problem: why nothing can be sent to the endpoint, if that is the cause instead.
    """

    gate: Gate
    problem: str | None = None
