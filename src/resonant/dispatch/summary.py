"""The counts of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resonant.delivery.attempt import Report

# The maximum number of dead letters per chunk that get their own report.
MOST_SHOWN = 20


@dataclass(slots=True)
class Summary:
    """The results of a run, counted in deliveries.

    Attributes:
        delivered: sent successfully.
        retried: failed, and due again within this run.
        parked: failed, and due again later; they wait in the store.
        dead_letters: given up, keyed by reason.
        lost: taken over by another worker.
        held: due at the end of the run, but held by the gate of their endpoint.
        attempts: the number of attempts, not of deliveries.
        unknown_endpoints: the reasons why endpoints could not be opened, keyed by name; their deliveries wait.
    """

    delivered: int = 0
    retried: int = 0
    parked: int = 0
    lost: int = 0
    held: int = 0
    attempts: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    unknown_endpoints: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = counts_as_text(self.delivered, self.retried, self.parked, self.dead_letters)
        rest = ((self.lost, "taken over by another worker"), (self.held, "held"))
        return text + "".join(f", {number} {words}" for number, words in rest if number)

    def as_dict(self) -> dict[str, object]:
        """Return the counts, with the keys of the JSON output."""
        return {
            "delivered": self.delivered,
            "retried": self.retried,
            "parked": self.parked,
            "dead_letter": self.dead_letters.total(),
            "by_reason": dict(sorted(self.dead_letters.items())),
            "lost": self.lost,
            "held": self.held,
        }


@dataclass(slots=True)
class ChunkSummary:
    """The outcomes of a chunk, counted in deliveries.

    Attributes:
        delivered: sent successfully.
        parked: waiting in the store for the next attempt, keyed by the failure's code.
        dead_letters: given up.
        shown: the reports of the first ``MOST_SHOWN`` dead letters.
        lost: taken over by another worker.
        left: not sent, because the run's time was up.
        held: not sent, because the endpoint's gate holds them.
    """

    delivered: int = 0
    parked: Counter[str] = field(default_factory=Counter)
    dead_letters: int = 0
    shown: list[Report] = field(default_factory=list)
    lost: int = 0
    left: int = 0
    held: int = 0

    def __str__(self) -> str:
        parked = _with_numbers(f"{self.parked.total()} parked", self.parked)
        dead_letters = f"{self.dead_letters} dead-lettered"
        if self.dead_letters > len(self.shown):
            dead_letters += f" ({len(self.shown)} shown as task runs)"
        text = f"{self.delivered} delivered, {parked}, {dead_letters}"
        rest = (
            (self.lost, "taken over by another worker"),
            (self.left, "left for the next run"),
            (self.held, "held by the endpoint's gate"),
        )
        return text + "".join(f", {number} {words}" for number, words in rest if number)


def counts_as_text(delivered: int, retried: int, parked: int, dead_letters: Counter[str]) -> str:
    """Return the counts that every summary begins with; dead letters are counted by reason."""
    text = f"{delivered} delivered, {retried} retried, {parked} parked, "
    return text + _with_numbers(f"{dead_letters.total()} dead-lettered", dead_letters)


def _with_numbers(text: str, numbers: Counter[str]) -> str:
    if not numbers:
        return text
    return f"{text} ({', '.join(f'{number} {name}' for name, number in sorted(numbers.items()))})"
