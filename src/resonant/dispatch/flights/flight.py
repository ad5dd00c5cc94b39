"""A delivery while a run has it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from resonant.dispatch.flights.counts import State

if TYPE_CHECKING:
    from resonant.dispatch.flights.endpoint_run import EndpointRun
    from resonant.dispatch.limiting.limiter import Slot
    from resonant.events import Lease, LeaseKey

# The weight of the last body in an endpoint's average.
_WEIGHT = 1 / 8
_IS_BUSY = tuple(int(state < State.WAITING) for state in State)
_ENDS = frozenset({State.FINISHED, State.RETURNED})
# The states that may follow each state. A place that is not used is given back, so that the flight waits for another one.
NEXT: dict[State, frozenset[State]] = {
    State.CLAIMED: _ENDS | {State.ADMITTED, State.SENDING},
    State.ADMITTED: frozenset({State.SENDING, State.CLAIMED}),
    State.SENDING: frozenset({State.ANSWERED, State.CLAIMED}),
    State.ANSWERED: _ENDS | {State.WAITING},
    State.WAITING: _ENDS | {State.CLAIMED},
    State.FINISHED: frozenset(),
    State.RETURNED: frozenset(),
}


class Place(NamedTuple):
    """The right to one send: the time of its slot of the endpoint's rate, if that is limited, and its slot in this process."""

    at: float | None
    slot: Slot


class Flight:
    """One delivery, from its claim until this run has settled it, or no longer has its lease.

    Args:
        lease: the claimed lease.
        endpoint: the delivery's endpoint.
        register: the flights of the run by key; a flight is in it until it ends.
        is_probe: whether it was claimed as a probe.

    Attributes:
        key: identifies the lease. A run may lose a lease and claim the same delivery again, as another flight.
        lease: the lease, including the attempts made since the claim.
        state: changed only by ``to``.
        place: the place for its send, while it is admitted or sending.
        in_chunk: whether it is sent in a chunk.
        retried: whether an attempt of this flight will be retried in this process.
    """

    __slots__ = (
        "_counts",
        "_register",
        "_size",
        "endpoint",
        "in_chunk",
        "key",
        "lease",
        "place",
        "retried",
        "state",
    )

    def __init__(
        self,
        lease: Lease,
        endpoint: EndpointRun,
        register: dict[LeaseKey, Flight],
        *,
        is_probe: bool = False,
    ) -> None:
        self.key, self.lease, self.endpoint, self._register = lease.key, lease, endpoint, register
        self.state = State.CLAIMED
        self.place: Place | None = None
        self.retried = self.in_chunk = False
        register[self.key] = self
        self._size = len(lease.event.body)
        own = endpoint.flights
        self._counts = (own,) if own.of_run is None else (own, own.of_run)
        for counts in self._counts:
            counts.by_state[State.CLAIMED] += 1
            counts.busy += 1
            counts.bytes += self._size
        own.body_bytes += _WEIGHT * (self._size - own.body_bytes) if own.body_bytes else self._size
        if is_probe:
            own.probe, own.was_probed = self.key, True

    @property
    def has_ended(self) -> bool:
        """Whether this run has settled or lost the delivery."""
        return self.state in _ENDS

    @property
    def is_probe(self) -> bool:
        """Whether this is the endpoint's probe."""
        return self.endpoint.flights.probe == self.key

    def to(self, state: State) -> None:
        """Change the state, and the counts with it.

        Raises:
            RuntimeError: the state cannot follow the present one.
        """
        before = self.state
        if state not in NEXT[before]:
            raise RuntimeError(f"a flight that is {before.name} cannot be {state.name}")
        self.state = state
        became_busy, has_ended = _IS_BUSY[state] - _IS_BUSY[before], state in _ENDS
        for counts in self._counts:
            counts.by_state[before] -= 1
            counts.by_state[state] += 1
            counts.busy += became_busy
            if has_ended:
                counts.bytes -= self._size
        if has_ended:
            if self._register.get(self.key) is self:  # after a failover, another lease may have the same key
                del self._register[self.key]
            if self.is_probe:
                self.endpoint.flights.probe = None

    def note_retry(self, delay: float) -> bool:
        """Count an attempt that will be retried after this delay; return whether it is the flight's first."""
        self.lease = replace(
            self.lease,
            attempts=self.lease.attempts + 1,
            round_attempts=self.lease.round_attempts + 1,
            last_delay=delay,
            backoff_until=None,
            begun_at=None,
        )
        is_first, self.retried = not self.retried, True
        return is_first
