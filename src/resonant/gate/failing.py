"""Finds the event types of an endpoint that fail while others work.

Each process counts the answers by type. They survive changes of the gate's state, since a type may fail before, during and after
an outage. The types that are found to fail are in the gate's row, for all processes.
"""

from dataclasses import dataclass, field
from math import inf

from resonant.gate.measurements import FEW, KNOWN_SECONDS, Answer
from resonant.store.shared.gates import KEPT_SECONDS

# The gate ignores a failure if the streak of its type is improbable, given the answers to others. At five failed deliveries, it
# holds the type. A success of another type within ten seconds shows that the endpoint is up.
_RARELY = 1e-5
# Chance also depends on the share of the type's last 100 answers that failed, since some of its events may always fail. Beyond this
# share, the type fails: otherwise one that worked once would never be held again.
_USUAL_ANSWERS, _MOST_USUAL = 100, 0.6
# The most types to count, and the most deliveries of a type that are told apart.
_MOST_TYPES, _MOST_DELIVERIES = 1_000, 50


@dataclass(slots=True)
class _Streak:
    """The failures in a row of one type, what had been counted before the first, and the type's usual share of failures."""

    since: float
    usual_share: float
    worked_before: int
    failed_before: int
    failures: int = 0
    last_at: float = -inf
    failure: Answer | None = None
    deliveries: set[int] = field(default_factory=set)


class TypeFailures:
    """The failures in a row of each event type."""

    def __init__(self) -> None:
        self._streaks: dict[str, _Streak] = {}
        # The share of failures of each type, and the number of answers.
        self._shares: dict[str, tuple[float, int]] = {}
        # Successes, and failures of types that worked afterwards: other failures may be due to their types.
        self._worked = self._failed = 0
        self._worked_at = -inf

    def add(self, now: float, answer: Answer) -> None:
        """Count an answer. A refusal (429, Retry-After) concerns the pace, not the type."""
        name = answer.event_type
        share, answers = self._shares.get(name, (0.0, 0))
        if not answer.is_refusal and (answers or len(self._shares) < _MOST_TYPES):
            answers = min(_USUAL_ANSWERS, answers + 1)
            self._shares[name] = share + ((not answer.works) - share) / answers, answers
        streak = self._streaks.get(name)
        if answer.works:
            self._worked, self._worked_at = self._worked + 1, now
            if streak is not None:
                self._failed += streak.failures
                del self._streaks[name]
            return
        if streak is not None and now - streak.last_at > KEPT_SECONDS:
            del self._streaks[name]
            streak = None
        if streak is None and len(self._streaks) < _MOST_TYPES and not answer.is_refusal:
            streak = _Streak(now, min(share, _MOST_USUAL), self._worked, self._failed)
            self._streaks[name] = streak
        if streak is not None:
            streak.failures, streak.last_at, streak.failure = streak.failures + 1, now, answer
            if len(streak.deliveries) < _MOST_DELIVERIES and not answer.is_refusal:
                streak.deliveries.add(answer.delivery_id)

    def is_cause(self, now: float, event_type: str) -> bool:
        """Return whether the latest failures of a type are due to it, since others work."""
        if (streak := self._streaks.get(event_type)) is None or now - self._worked_at >= KNOWN_SECONDS:
            return False
        worked = self._worked - streak.worked_before
        failed = self._failed - streak.failed_before
        share_bad = max(streak.usual_share, (failed + 0.5) / (worked + failed + 1))
        return worked > 0 and share_bad ** len(streak.deliveries) < _RARELY

    def is_to_hold(self, event_type: str) -> bool:
        """Return whether a type that is the cause of its failures has failed often enough to be held."""
        return len(self._streaks[event_type].deliveries) >= FEW

    def since(self, event_type: str) -> float:
        """Return when a type that fails began to fail."""
        return self._streaks[event_type].since

    def failure(self, event_type: str) -> Answer | None:
        """Return the last failure of a type; None if this process knows none."""
        return streak.failure if (streak := self._streaks.get(event_type)) else None

    def last_failures(self) -> dict[str, float]:
        """Return the time of the last failure of each failing type."""
        return {event_type: streak.last_at for event_type, streak in self._streaks.items()}
