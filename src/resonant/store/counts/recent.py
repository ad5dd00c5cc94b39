"""The counts of the last hours by endpoint. A process parses each row of the sketches once, since rows are never updated."""

import json
import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, case, func, select

from resonant.store import schema
from resonant.store.counts.counters import read_unfolded
from resonant.store.counts.sketches import Packed, pack, seconds_of
from resonant.store.engine.sql import is_any_of

DAY_HOURS = 24
_HOUR = 3600
_t = schema.sketches
# The rows of a day, and those of the last minutes that are not merged yet.
_MOST_ROWS = 512
# SQLite reuses the ids of deleted rows, so a row is known by its text, too, or if that is long, by the length of its buckets.
_LONG = 4_096


class _Part(NamedTuple):
    """A sketch of attempts as it is stored; ``buckets`` and ``numbers`` are packed."""

    result: str
    code: str
    number: int
    least: float | None
    most: float | None
    buckets: bytes
    numbers: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    minute: int
    parts: dict[str, list[_Part]]
    # Deliveries that succeeded (True) and attempts that did not (False).
    results: Counter[tuple[str, bool]]


@dataclass(slots=True)
class Traffic:
    """The attempts of an endpoint.

    Attributes:
        hours: those of each of the last 24 hours; the last is the current one.
        last_hour: those of the last hour.
        codes: the failed and lost ones of these hours, by code.
    """

    hours: list["Attempts"]
    last_hour: "Attempts"
    codes: Counter[str]


@dataclass(slots=True)
class Attempts:
    """The attempts of a time, which begins at ``start``, in seconds since the epoch."""

    start: int
    delivered: int = 0
    failed: int = 0
    parts: list[_Part] = field(default_factory=list)

    def add(self, part: _Part) -> None:
        """Add the attempts of a row."""
        if part.result == "delivered":
            self.delivered += part.number
        else:
            self.failed += part.number
        self.parts.append(part)

    def percentile(self, share: float) -> float | None:
        """Return the duration that this share of the attempts did not exceed, in seconds, within 1 %; None without any."""
        buckets: Counter[int] = Counter()
        for part in self.parts:
            size = len(part.numbers) // 4
            each = struct.unpack(f"<{size}h", part.buckets), struct.unpack(f"<{size}I", part.numbers)
            for bucket, number in zip(*each, strict=True):
                buckets[bucket] += number
        left = share * buckets.total()
        for bucket, number in sorted(buckets.items()):
            left -= number
            if left <= 0:
                least = min(each.least for each in self.parts if each.least is not None)
                most = max(each.most for each in self.parts if each.most is not None)
                return min(max(seconds_of(bucket), least), most)
        return None


# The key of a row: its id, minute, and what tells it from another row with this id.
_Rows: TypeAlias = dict[tuple[Any, ...], _Row]
_known: WeakKeyDictionary[Engine, OrderedDict[tuple[Any, ...], _Row]] = WeakKeyDictionary()
# The rows that `read_results` added up last, and their sum: from minute to minute, few rows change.
_sums: WeakKeyDictionary[Engine, tuple[_Rows, Counter[tuple[str, bool]]]] = WeakKeyDictionary()


def read_results(connection: Connection, *, since: int) -> Counter[tuple[str, bool]]:
    """Count the deliveries that succeeded (True) and the attempts that did not (False) since a time, by endpoint."""
    rows = _read(connection, since)
    summed, before = _sums.get(connection.engine, ({}, Counter()))
    found = before.copy()
    for key in rows.keys() - summed.keys():
        found.update(rows[key].results)
    for key in summed.keys() - rows.keys():
        found.subtract(summed[key].results)
    found = +found
    _sums[connection.engine] = rows, found.copy()
    for tally in read_unfolded(connection, since):
        for labels, number in tally.numbers():
            is_delivered = labels.result == "delivered"
            if labels.measure == _measure_of(is_delivered=is_delivered):
                found[labels.endpoint, is_delivered] += number
    return found


def read_traffic(connection: Connection, endpoints: Iterable[str], *, now: float) -> dict[str, Traffic]:
    """Return the attempts of these endpoints in the last day."""
    first = int(now // _HOUR - DAY_HOURS + 1) * _HOUR
    found = {
        name: Traffic(
            [Attempts(first + index * _HOUR) for index in range(DAY_HOURS)],
            Attempts(int(now - _HOUR)),
            Counter(),
        )
        for name in endpoints
    }
    unfolded = (pack(each.minute, each.sketches(found)) for each in read_unfolded(connection, first))
    for row in chain(_read(connection, first).values(), map(_parsed, unfolded)):
        # A clock that is ahead may have written later minutes.
        hour = min((row.minute - first) // _HOUR, DAY_HOURS - 1)
        for name in row.parts.keys() & found.keys():
            traffic = found[name]
            for part in row.parts[name]:
                traffic.hours[hour].add(part)
                if row.minute >= now - _HOUR:
                    traffic.last_hour.add(part)
                if part.result != "delivered":
                    traffic.codes[part.code] += part.number
    return found


def _read(connection: Connection, since: int) -> _Rows:
    known = _known.setdefault(connection.engine, OrderedDict())
    size = func.length(_t.c.buckets)
    facts = (_t.c.minute, size, case((size < _LONG, _t.c.entries), else_=""))
    wanted = {
        row[0]: tuple(row) for row in connection.execute(select(_t.c.id, *facts).where(_t.c.minute >= since))
    }
    _fetch(connection, known, [id_ for id_, key in wanted.items() if key not in known], wanted)
    for key in wanted.values():
        known.move_to_end(key)
    rows = {key: known[key] for key in wanted.values()}
    while len(known) > _MOST_ROWS:
        known.popitem(last=False)
    return rows


def _fetch(
    connection: Connection,
    known: OrderedDict[tuple[Any, ...], _Row],
    ids: Collection[int],
    keys: dict[int, tuple[Any, ...]],
) -> None:
    query = select(_t.c.id, _t.c.minute, _t.c.entries, _t.c.buckets).where(is_any_of(_t.c.id, ids))
    for id_, *packed in connection.execute(query) if ids else ():
        known[keys[id_]] = _parsed(Packed(*packed))


def _measure_of(*, is_delivered: bool) -> str:
    """Return what counts a delivery that succeeded, or an attempt that did not."""
    return "delivery" if is_delivered else "attempt"


def _parsed(row: Packed) -> _Row:
    parts: defaultdict[str, list[_Part]] = defaultdict(list)
    results: Counter[tuple[str, bool]] = Counter()
    place, end = 0, len(row.buckets) // 6 * 2
    for measure, endpoint, _type, result, _category, code, _detail, count, _total, *rest in json.loads(
        row.entries
    ):
        least, most, width = rest
        start, place = place, place + width
        is_delivered = result == "delivered"
        if measure == _measure_of(is_delivered=is_delivered):
            results[endpoint, is_delivered] += count
        if measure == "attempt":
            packed = row.buckets[2 * start : 2 * place], row.buckets[end + 4 * start : end + 4 * place]
            parts[endpoint].append(_Part(result, code, count, least, most, *packed))
    return _Row(row.minute, dict(parts), results)
