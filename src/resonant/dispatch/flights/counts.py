"""The states of flights, and how many flights are in each."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resonant.events import LeaseKey


class State(IntEnum):
    """What a run does with a delivery. The states before ``WAITING`` are busy; ``FINISHED`` and ``RETURNED`` are ends.

    Attributes:
        CLAIMED: it waits for a place.
        ADMITTED: it has a place, and its task run is starting.
        SENDING: it has a place, and its attempt is being made.
        ANSWERED: its outcome is being recorded.
        WAITING: it waits in this process for its retry.
        FINISHED: it is delivered or given up.
        RETURNED: it is parked, released, or lost to another worker.
    """

    CLAIMED = 0
    ADMITTED = 1
    SENDING = 2
    ANSWERED = 3
    WAITING = 4
    FINISHED = 5
    RETURNED = 6


# Looking up a member of an enumeration takes longer than a name.
_ADMITTED, _SENDING, _WAITING = State.ADMITTED, State.SENDING, State.WAITING


class FlightCounts:
    """How many flights a run, or one of its endpoints, has in each state. Only ``Flight`` and ``Chunk`` change it.

    Args:
        of_run: the counts of the whole run, if these are an endpoint's. A run's counts have no probe, chunks and average size.

    Attributes:
        by_state: the number of flights in each state, including all that have ended.
        busy: the flights that are being sent or recorded, or wait for a place.
        bytes: the total size of the bodies in flight.
        body_bytes: the average size of the last claimed bodies; 0 before the first.
        probe: the delivery that was last claimed as a probe, while it is in flight.
        was_probed: whether a probe was claimed.
        chunks: the chunks whose task runs have not begun to send.
    """

    __slots__ = ("body_bytes", "busy", "by_state", "bytes", "chunks", "of_run", "probe", "was_probed")

    def __init__(self, of_run: FlightCounts | None = None) -> None:
        self.of_run = of_run
        self.by_state = [0] * len(State)
        self.busy = self.bytes = self.chunks = 0
        self.body_bytes = 0.0
        self.probe: LeaseKey | None = None
        self.was_probed = False

    @property
    def sending(self) -> int:
        """The number of flights that have a place, including those whose task runs are starting."""
        return self.by_state[_ADMITTED] + self.by_state[_SENDING]

    @property
    def starting(self) -> int:
        """The number of admitted flights whose task runs have not begun to send."""
        return self.by_state[_ADMITTED]

    @property
    def waiting(self) -> int:
        """The number of busy flights that have no place."""
        return self.busy - self.sending

    @property
    def retrying(self) -> int:
        """The number of flights that wait for their retries."""
        return self.by_state[_WAITING]

    @property
    def finished(self) -> int:
        """The number of deliveries that this run delivered or gave up."""
        return self.by_state[State.FINISHED]
