"""Remembers up to when endpoints have nothing due, while searches for due deliveries are slow.

On PostgreSQL, a transaction that stays open keeps the index entries of all deliveries that are finished meanwhile, and a search from
the beginning reads all of them. So after a slow search, the next ones begin at about the time of the last one. They miss deliveries
that are due earlier but were committed later, and those of other endpoints that were committed without a notification. The next
complete search finds these: it begins after 20 times the duration of the last one, and after 5 seconds at the latest.
"""

from collections.abc import Callable, Iterable, Mapping

from resonant.store.queue.leases import Due
from resonant.store.queue.rescue import SEARCH_SHARE

# The longest wait for a complete search.
_LONGEST_WAIT_SECONDS = 5.0
# A search begins this much before the last one, for events that were accepted shortly before it and committed after it.
_MARGIN_SECONDS = 1.0


class DueBounds:
    """Decides from when on to search for the due deliveries of each endpoint.

    Args:
        poll_seconds: the longest time between two searches. If complete ones can take place at this interval, all are complete.
        monotonic: a clock that is never set, in seconds.
    """

    def __init__(self, poll_seconds: float, monotonic: Callable[[], float]) -> None:
        self._poll_seconds = poll_seconds
        self._monotonic = monotonic
        self._all_again_at = 0.0
        # Endpoints without a bound of their own had nothing due at the last complete search.
        self._since: dict[str, float] = {}
        self._since_of_others: float | None = None

    def of(self, endpoints: Iterable[str]) -> dict[str, float]:
        """Return the earliest due times to search for, in seconds since the epoch; none while searches are quick."""
        if self._since_of_others is None:
            return {}
        return {name: self._since.get(name, self._since_of_others) for name in endpoints}

    def add(self, endpoints: Iterable[str]) -> None:
        """Include these endpoints, which have new work, in the next looks."""
        for name, since in self.of(endpoints).items():
            self._since.setdefault(name, since)

    def of_next_look(self, woken_for: frozenset[str] | None) -> dict[str, float] | None:
        """Return the endpoints to look at, with their bounds; None for all deliveries of all endpoints.

        Args:
            woken_for: the endpoints with new work; None if unknown.
        """
        # Noted before the look, which may fail.
        if woken_for is None:
            self._all_again_at = 0.0
        else:
            self.add(woken_for)
        return None if self._monotonic() >= self._all_again_at else self._since.copy()

    def note(
        self, found: Iterable[Due], *, bounds: Mapping[str, float] | None, at: float, seconds: float
    ) -> None:
        """Note the result of a look.

        Args:
            found: the earliest due times.
            bounds: the result of ``of_next_look`` before the look.
            at: the time before the look, in seconds since the epoch.
            seconds: its duration.
        """
        since = at - _MARGIN_SECONDS
        if bounds is None:
            wait = min(seconds / SEARCH_SHARE, _LONGEST_WAIT_SECONDS)
            is_slow = wait > self._poll_seconds
            self._all_again_at = self._monotonic() + wait if is_slow else 0.0
            self._since_of_others = since if is_slow else None
            self._since = {}
        else:
            self._since |= dict.fromkeys(bounds, since)
        self._since |= {each.endpoint: min(each.at, since) for each in found}
