"""Statistics of attempts and outcomes that a test invents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.metrics.statistics import statistics
from resonant.store.counts import sketches
from resonant.store.counts.counters import DelayOf, Tally

if TYPE_CHECKING:
    from resonant.metrics.percentiles import Entry
    from resonant.metrics.statistics import Statistics

HOUR = 3600
START = 472_222 * HOUR + 0.0  # on an hour


class Facts:
    """Counts attempts and ends as the store does, in one row for each minute."""

    def __init__(self) -> None:
        self._tallies: dict[int, Tally] = {}
        self.unfinished: list[Entry] = []

    def _at(self, at: float) -> Tally:
        return self._tallies.setdefault(int(at // 60), Tally(at))

    def attempt(self, seconds=0.1, *, at=START, endpoint="orders", event_type="t"):
        self._at(at).add("attempt", endpoint, event_type, "delivered", seconds=seconds)
        return self

    def failed(
        self,
        seconds=0.1,
        *,
        at=START,
        endpoint="orders",
        event_type="t",
        category="transient",
        code="http_503",
        error_type="UnexpectedStatus",
    ):
        labels = (endpoint, event_type, "failed", category, code)
        self._at(at).add("attempt", *labels, detail=error_type, seconds=seconds)
        return self

    def lost(self, *, at=START, endpoint="orders"):
        labels = (endpoint, "t", "lost", "unknown", "worker_lost")
        self._at(at).add("attempt", *labels, detail="WorkerLost")
        return self

    def first_attempt(self, seconds, *, at=START, endpoint="orders"):
        self._at(at).add("first_attempt", endpoint, "t", "", seconds=seconds)
        return self

    def delivered(self, took=1.0, *, attempts=1, at=START, endpoint="orders", event_type="t"):
        self._at(at).add("delivery", endpoint, event_type, "delivered", seconds=took)
        self._at(at).add("retries", endpoint, event_type, "", seconds=attempts - 1)
        return self

    def dead(self, reason, *, took=1.0, attempts=1, at=START, endpoint="orders"):
        self._at(at).add("delivery", endpoint, "t", "dead_letter", detail=reason, seconds=took)
        if attempts:
            self._at(at).add("retries", endpoint, "t", "", seconds=attempts - 1)
        return self

    def replayed(self, reason, *, attempts=1, at=START, endpoint="orders"):
        self._at(at).add("replayed", endpoint, "t", "dead_letter", detail=reason, seconds=attempts - 1)
        return self

    def delay(self, seconds, *, after=1, asked=False, policy=None, endpoint="orders"):
        detail = DelayOf(after, asked, policy).to_text()
        self._at(START).add("delay", endpoint, "t", "", detail=detail, seconds=seconds)
        return self

    def rows(self) -> list[sketches.Packed]:
        return [sketches.pack(60 * minute, each.sketches()) for minute, each in self._tallies.items()]

    def statistics(self, *, since=START, until=START + 1800) -> Statistics:
        return statistics(self.rows(), self.unfinished, since=since, until=until)
