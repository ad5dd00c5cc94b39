"""Statistics of attempts and outcomes that a test invents."""

from dataclasses import fields
from math import isnan
from typing import Any

from pandas import DataFrame

from resonant.metrics.statistics import Statistics, Unfinished, statistics
from resonant.store.counts.counters import DelayOf, Tally
from resonant.store.counts.sketches import EVER, Packed

HOUR = 3600
START = 472_222 * HOUR + 0.0  # on an hour


class Facts:
    """Counts attempts and ends as the store does, in one row for each minute."""

    def __init__(self) -> None:
        self._tallies: dict[int, Tally] = {}
        self.unfinished: list[Unfinished] = []

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

    def dead(self, reason, *, took=1.0, attempts=1, at=START, endpoint="orders", event_type="t"):
        self._at(at).add("delivery", endpoint, event_type, "dead_letter", detail=reason, seconds=took)
        if attempts:
            self._at(at).add("retries", endpoint, event_type, "", seconds=attempts - 1)
        return self

    def replayed(self, reason, *, attempts=1, at=START, endpoint="orders"):
        self._at(at).add("replayed", endpoint, "t", "dead_letter", detail=reason, seconds=attempts - 1)
        return self

    def delay(self, seconds, *, after=1, asked=False, policy=None, endpoint="orders"):
        detail = DelayOf(after, asked, policy).to_text()
        self._at(START).add("delay", endpoint, "t", "", detail=detail, seconds=seconds)
        return self

    def rows(self) -> list[Packed]:
        """Return one row of sketches for each minute."""
        return [row for each in self._tallies.values() for row in each.rows() if row.minute != EVER]

    def statistics(self, *, since=START, until=START + 1800) -> Statistics:
        return statistics(self.rows(), self.unfinished, since=since, until=until)


def plain(found: Statistics) -> dict[str, Any]:
    """Return statistics for comparison: NaN as None, and without the last digits, which depend on the order of additions."""

    def cell(value: Any) -> Any:
        if isinstance(value, float):
            return None if isnan(value) else float(f"{value:.9g}")
        return value

    def table(frame: DataFrame) -> dict[Any, dict[str, Any]]:
        rows = frame.to_dict("index")
        return {key: {name: cell(value) for name, value in row.items()} for key, row in rows.items()}

    values = {each.name: getattr(found, each.name) for each in fields(found)}
    return {name: table(value) if isinstance(value, DataFrame) else value for name, value in values.items()}
