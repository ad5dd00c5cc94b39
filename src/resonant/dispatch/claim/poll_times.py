"""When to look for due deliveries. Pure: it changes nothing, and reads no clock. Times are those of the event loop.

The regular poll finds everything, in case a wake-up was lost. An early poll follows a commit while deliveries are being sent.
"""

from dataclasses import dataclass, replace
from math import inf

# The longest time between two polls. A poll takes a millisecond, but longer with many endpoints: then, while nothing is in
# flight, polls take at most this share of the time, and are at most two seconds apart.
POLL_SECONDS = 0.25
_IDLE_POLL_SHARE, _LONGEST_POLL_SECONDS = 0.05, 2.0
# The shortest time between a poll and an early one. On SQLite, the run's own commits also cause early polls. Shorter intervals
# would make smaller chunks. With many endpoints, a poll takes long: early polls take at most this share of the time. While no
# claimed delivery waits for its send, only the larger share limits them.
_EARLY_POLL_SECONDS = 0.1
_EARLY_POLL_SHARE, _SPARE_POLL_SHARE = 0.02, 0.1
# The shortest waits for the next parked delivery. With chunks, deliveries due soon after it join its chunk.
_SHORTEST_WAIT_SECONDS = 0.02
_SHORTEST_WAIT_FOR_CHUNK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class PollTimes:
    """The times of the next polls, and of the next claim.

    Attributes:
        idle_seconds: the longest time between two polls while nothing is in flight.
        regular: the time of the next regular poll.
        early, soon: the earliest times of an early poll, while claimed deliveries wait for short sends, and while none waits.
        claim: when to claim without a poll; infinite if only a poll may find more.
        rest_until: until when not to claim, since no endpoint had room.
        last_took: the duration of the last poll.
    """

    idle_seconds: float
    regular: float = 0.0
    early: float = 0.0
    soon: float = 0.0
    claim: float = inf
    rest_until: float = 0.0
    last_took: float = 0.0

    def of_early(self, *, is_sending: bool) -> float:
        """Return the time of an early poll; ``is_sending``: claimed deliveries of an endpoint with short sends wait."""
        return self.early if is_sending else self.soon

    def looking_in(self, seconds: float, now: float, *, is_busy: bool, with_chunks: bool) -> "PollTimes":
        """Return the times if a delivery is due after this many seconds, unless an earlier poll is planned."""
        # While chunks are being sent, a poll at each retry's due time would give each retry its own chunk.
        shortest = _SHORTEST_WAIT_SECONDS
        if with_chunks:
            shortest = POLL_SECONDS if is_busy else _SHORTEST_WAIT_FOR_CHUNK_SECONDS
        longest = POLL_SECONDS if is_busy else self.idle_seconds
        shortest = max(shortest, longest - POLL_SECONDS)
        return replace(self, regular=min(self.regular, now + min(longest, max(shortest, seconds))))

    def after_poll(self, ended_at: float, took: float, *, needs_poll: bool) -> "PollTimes":
        """Return the times after a poll; ``needs_poll``: pilots and probes need the regular one."""
        usual = min(took, self.last_took)  # one slow poll may be chance
        longer = min(usual / _IDLE_POLL_SHARE, _LONGEST_POLL_SECONDS)
        return replace(
            self,
            idle_seconds=POLL_SECONDS if needs_poll else max(POLL_SECONDS, longer),
            early=ended_at + max(_EARLY_POLL_SECONDS, took / _EARLY_POLL_SHARE),
            soon=ended_at + took / _SPARE_POLL_SHARE,
            rest_until=0.0,
            last_took=took,
        )
