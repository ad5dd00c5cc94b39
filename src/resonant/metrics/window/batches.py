"""Reading attempts and ends of events from the store into segments."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from resonant.metrics import snapshot
from resonant.metrics.window.segments import HOUR_SECONDS, Pile, Segment, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from sqlalchemy import Connection

    from resonant.metrics.window.segments import Codes, Floats, Names

_BATCH = 50_000


class Batch:
    """Rows read from the store, page by page, before they become segments."""

    def __init__(self, names: Names) -> None:
        self.delivered = Counter[str]()
        self.replayed: list[int] = []  # deliveries with a new end, which may have had an earlier one
        self.size = 0
        self._names = names
        self._attempts: list[Floats] = []  # moment, kind, duration
        self._delays: list[Floats] = []  # moment, kind, delay
        self._ended: list[Floats] = []  # moment, kind, attempts, delivery id, time from acceptance

    def add(self, rows: Sequence[snapshot.Recorded]) -> None:
        """Add attempts, and the events that ended with them."""
        code = self._names.attempts.code
        kinds = [
            code(row.endpoint, row.event_type, row.result, row.category, row.code, row.error_type)
            for row in rows
        ]
        moments = [row.started_at for row in rows]
        self._attempts.append(np.array([moments, kinds, [row.duration for row in rows]], dtype=np.float64))
        code = self._names.delays.code
        delays = [
            (
                row.started_at,
                code(row.endpoint, row.policy or "", row.round_attempt, row.retry_after is not None),
                row.delay,
            )
            for row in rows
            if row.delay is not None
        ]
        self._delays.append(np.array(delays, dtype=np.float64).reshape(-1, 3).T)
        ends = [row for row in rows if row.is_end]
        self.add_ends(ends)
        self.delivered.update(row.endpoint for row in ends if row.status == "delivered")
        self.size += len(rows)

    def add_ends(self, rows: Sequence[snapshot.Recorded | snapshot.End]) -> None:
        """Add events that have ended."""
        code = self._names.ended.code
        ended = [
            (
                row.finished_at,
                code(row.endpoint, row.event_type, row.status, row.reason),
                row.attempts,
                row.delivery_id,
                row.finished_at - row.accepted_at,
            )
            for row in rows
        ]
        self.replayed += [row.delivery_id for row in rows if row.round > 1]
        self._ended.append(np.array(ended, dtype=np.float64).reshape(-1, 5).T)

    def segments(self) -> list[Segment]:
        """Return the rows as segments, one per hour."""
        attempts, delays, ended = (
            np.concatenate([np.empty((width, 0)), *arrays], axis=1)
            for width, arrays in ((3, self._attempts), (3, self._delays), (5, self._ended))
        )
        parts = [_by_hour(rows) for rows in (attempts, delays, ended)]
        hours = sorted({hour for part in parts for hour in part})
        return [
            self._segment(
                hour,
                parts[0].get(hour, attempts[:, :0]),
                parts[1].get(hour, delays[:, :0]),
                parts[2].get(hour, ended[:, :0]),
            )
            for hour in hours
        ]

    def _segment(self, hour: int, attempts: Floats, delays: Floats, ended: Floats) -> Segment:
        names = self._names
        answered = attempts[:, ~_is(names.attempts, 2, "lost")[whole(attempts[1])]]
        delivered = ended[:, _is(names.ended, 2, "delivered")[whole(ended[1])]]
        piles = {"delay": Pile.of(whole(delays[1]), delays[2], delays[0])}
        # A clock that was set back must not make a duration negative.
        for name, kinds, rows, values in (
            ("latency", names.attempts, answered, answered[2].clip(min=0)),
            ("took", names.ended, delivered, delivered[4].clip(min=0)),
        ):
            kind = whole(rows[1])
            endpoints = np.array([names.endpoints.code(each[0]) for each in kinds], dtype=np.int64)
            types = np.array([names.types.code(each[1]) for each in kinds], dtype=np.int64)
            piles[name] = Pile.of(np.zeros_like(kind), values, rows[0])
            piles[f"{name}_endpoint"] = Pile.of(endpoints[kind], values, rows[0])
            piles[f"{name}_type"] = Pile.of(types[kind], values, rows[0])
        return Segment.of(hour, attempts[:2], ended[:4], piles)


def read_batches(
    connection: Connection, names: Names, ids: snapshot.Run, *, since: float | None
) -> Iterator[Batch]:
    """Read the attempts with these ids; see ``snapshot.each_recorded``."""
    batch = Batch(names)
    for page in snapshot.each_recorded(connection, ids, since=since):
        batch.add(page)
        if batch.size >= _BATCH:
            yield batch
            batch = Batch(names)
    if batch.size:
        yield batch


def _by_hour(rows: Floats) -> dict[int, Floats]:
    hours = rows[0] // HOUR_SECONDS * HOUR_SECONDS
    return {int(hour): rows[:, hours == hour] for hour in np.unique(hours)}


def _is(kinds: Codes, place: int, value: str) -> NDArray[np.bool_]:
    return np.array([kind[place] == value for kind in kinds], dtype=np.bool_)
