"""The answers of a gate to a process that asks to send, or to claim."""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Send:
    """Send now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after ``seconds``, or after the next answer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Release:
    """Give the delivery back to the store: the gate holds it."""


Permission = Send | Wait | Release

SEND, RELEASE = Send(), Release()
# Ask again soon: an answer, or the write of a change, takes some milliseconds.
ASK_SOON = Wait(0.01)
# A run looks at its gates four times a second. A pace saves tokens for as long: with a burst of a tenth of a second, it never grew
# beyond 10 requests per second.
LOOK_SECONDS = 0.25
# How many deliveries may be claimed from an endpoint whose gate is normal.
NO_LIMIT = inf
