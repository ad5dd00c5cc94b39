"""Deliveries, counted by outcome."""

from collections import Counter
from dataclasses import dataclass, field

# The counts that a text names only if they are not zero, with their words.
_WORDS = {
    "lost": "taken over by another worker",
    "left": "left for the next run",
    "held": "held",
    "delivered_before": "delivered before",
    "purged": "purged",
    "unfinished": "not finished yet",
}


@dataclass(slots=True)
class Counts:
    """The outcomes of a run, of a chunk, or of a command's deliveries.

    Attributes:
        delivered: sent successfully.
        retried: of a run: failed, and due again within it; of a command's deliveries: ended after more than one attempt.
        parked: wait in the store for an attempt that is due later than a run waits; in a chunk, for any attempt.
        codes: of a chunk: the failures of the parked deliveries, by code.
        dead_letters: given up, keyed by reason.
        held: due, but the endpoint's gate holds them.
        lost: taken over by another worker.
        left: not sent, because the run's time was up.
        delivered_before: delivered by an earlier run.
        purged: removed from the store after they ended.
        total: all of a command's deliveries.
        attempts: the number of attempts, not of deliveries.
    """

    delivered: int = 0
    retried: int = 0
    parked: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    held: int = 0
    lost: int = 0
    left: int = 0
    delivered_before: int = 0
    purged: int = 0
    total: int = 0
    attempts: int = 0

    def __str__(self) -> str:
        text = f"{self.delivered} delivered, {self.retried} retried"
        text += f", {self.parked} parked{_in_brackets(self.codes)}"
        text += f", {self.dead_letters.total()} dead-lettered{_in_brackets(self.dead_letters)}"
        rest = ((getattr(self, name), words) for name, words in _WORDS.items())
        return text + "".join(f", {number} {words}" for number, words in rest if number)

    @property
    def settled(self) -> int:
        """The number of deliveries that are delivered, dead letters, parked, held or purged."""
        ended = self.delivered + self.delivered_before + self.dead_letters.total() + self.purged
        return ended + self.parked + self.held

    @property
    def unfinished(self) -> int:
        """The number of a command's deliveries that are due or in flight."""
        return max(0, self.total - self.settled)

    @property
    def undelivered(self) -> str:
        """The numbers of dead letters, parked and held deliveries in words; empty if all are zero."""
        numbers = (
            (self.dead_letters.total(), "dead-lettered"),
            (self.parked, "parked"),
            (self.held, "held"),
        )
        return ", ".join(f"{number:,} {words}" for number, words in numbers if number)


def _in_brackets(numbers: Counter[str]) -> str:
    return (
        f" ({', '.join(f'{number} {name}' for name, number in sorted(numbers.items()))})" if numbers else ""
    )
