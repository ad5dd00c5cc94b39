"""What a run did, in counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Summary:
    """What a run did, counted in deliveries.

    Attributes:
        delivered: answered with success.
        retried: waited in this run for at least one retry.
        parked: left in the store until they are due again.
        dead_letters: given up, by reason.
        lost: taken over by another worker.
        attempts: counted in attempts, unlike all others.
        unknown_endpoints: endpoints that could not be opened, and why; their deliveries wait.
    """

    delivered: int = 0
    retried: int = 0
    parked: int = 0
    lost: int = 0
    attempts: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    unknown_endpoints: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = counts_as_text(self.delivered, self.retried, self.parked, self.dead_letters)
        return text + (f", {self.lost} taken over by another worker" if self.lost else "")

    def as_dict(self) -> dict[str, object]:
        """Return the counts, with the keys of the JSON output."""
        return {
            "delivered": self.delivered,
            "retried": self.retried,
            "parked": self.parked,
            "dead_letter": self.dead_letters.total(),
            "by_reason": dict(sorted(self.dead_letters.items())),
            "lost": self.lost,
        }


def counts_as_text(delivered: int, retried: int, parked: int, dead_letters: Counter[str]) -> str:
    """Return the counts that every summary begins with; dead letters are counted by reason."""
    text = f"{delivered} delivered, {retried} retried, {parked} parked, {dead_letters.total()} dead-lettered"
    if dead_letters:
        text += f" ({', '.join(f'{n} {reason}' for reason, n in sorted(dead_letters.items()))})"
    return text
