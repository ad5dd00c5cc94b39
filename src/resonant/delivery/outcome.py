"""The outcome of one attempt."""

from dataclasses import dataclass

from resonant.delivery.retry import Decision, GiveUp, Park, Retry
from resonant.delivery.verdict import Verdict
from resonant.events import Attempt, Lease

# Below this, a delay is shown with hundredths of a second.
_SHORT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished attempt and the decision on it, for recording, logging and waiting.

    Attributes:
        lease: the lease as claimed, with ``attempts`` increased by later attempts.
        attempt: the attempt.
        decision: None for a success.
        verdict: how the failure was classified; None for a success.
    """

    lease: Lease
    attempt: Attempt
    decision: Decision | None
    verdict: Verdict | None = None

    @property
    def next_step(self) -> str:
        """The decision in words."""
        match self.decision:
            case None:
                return "delivered"
            case Retry(delay=delay):
                return f"retry in {delay:.2f} s"
            case Park(delay=delay, charged=charged):
                early = "" if charged else " (not counted in max_attempts)"
                shown = f"{delay:.2f}" if delay < _SHORT_SECONDS else f"{delay:.0f}"
                return f"parked for {shown} s{early}"
            case GiveUp(reason=reason):
                return f"given up: {reason}"
