"""Statistics of a window, from the sketches of the store: results of events, failures of attempts, durations of both.

Here, an event is one delivery, regardless of its number of attempts. There are two rates:

- the **success rate** is per event: the share of delivered events among those that ended in the window;
- the **error rate** is per attempt: the share of failed or lost attempts among those that ended in the window.

A replayed dead letter counts only by its new outcome. A purge does not change statistics. A poll of an unfinished flow run is
neither an attempt nor a retry.

The tables are data frames, with one row for each endpoint, event type or hour. Rates are fractions, durations are in seconds, and
times are in seconds since the epoch. A rate or a duration without data is NaN. Their columns:

================================ =================================================================================
events                           success + dead_letter + unfinished
success                          delivered
dead_letter                      given up, for any reason
failed                           dead letters with the reason permanent, which ``resonant failed`` lists
unfinished                       pending or retrying; in no hour
success_rate                     of the events that ended
attempts, failed_attempts        failed ones include lost ones
error_rate                       of attempts
retries                          all retries of the events, even before the window
retries_avg, retries_max         over events with an attempt
latency_min, …, latency_max      attempts that were answered or failed: the end of a lost one is unknown
end_to_end_min, …                from acceptance to delivery, of events delivered in the window
first_attempt_min, …             from acceptance to the first attempt, unless it was lost with its worker
================================ =================================================================================
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pandas import DataFrame, Series, concat, factorize
from sqlalchemy import Connection, case, func, select

from resonant.metrics.percentiles import SketchWindow, read_window, spreads
from resonant.store import schema
from resonant.store.counts.counters import DelayOf, read_rows
from resonant.store.counts.sketches import NANOSECONDS, Labels, Packed, Sketch, begin_of, bucket_of, pack
from resonant.store.queue.attempts import is_poll

EVERY_ENDPOINT = "(all)"  # no endpoint can have this name
_HOUR = 3600
_SUMS = ["success", "dead_letter", "failed", "unfinished", "attempts", "failed_attempts", "tried", "retries"]
_COUNTS = ["events", *_SUMS]
_d = schema.deliveries


class Unfinished(NamedTuple):
    """A number of unfinished deliveries with the same number of attempts."""

    endpoint: str
    event_type: str
    attempts: int
    number: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A window's statistics.

    Attributes:
        since: the beginning of a minute, or of an hour or a day if the window is long.
        overall: one row.
        hourly: every hour from the first with activity until the window's end, by its start.
        kinds: failed and lost attempts by ``category``, ``code`` and ``error_type``, dead letters by ``reason``: the columns
            ``kind``, ``event_type``, ``name`` and ``count``.
        delays: the delays after failed attempts, by ``endpoint``, ``policy`` (empty for the endpoint's), whether a Retry-After
            ``asked`` for it, and ``after`` which attempt of the round: their ``count``, and ``least``, ``median`` and ``most``.
    """

    since: float
    until: float
    overall: DataFrame
    by_endpoint: DataFrame
    by_event_type: DataFrame
    hourly: DataFrame
    kinds: DataFrame
    delays: DataFrame

    def count(self, kind: str, event_type: str | None = None) -> dict[str, int]:
        """Return the counts of one kind by name, the most frequent first."""
        counts = Counter[str]()
        for of, of_type, name, count in self.kinds.itertuples(index=False):
            if name and of == kind and event_type in (None, of_type):
                counts[name] += count
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return {name: int(count) for name, count in ranked if count > 0}


def read_statistics(connection: Connection, *, now: float, since: float) -> Statistics:
    """Compute the statistics of a window, from the beginning of a minute, hour or day: see ``begin_of``.

    Args:
        since: seconds since the epoch.
    """
    begin = begin_of(since, now=now)
    rows = read_rows(connection, since=begin, until=now)
    polls = select(func.count()).where(is_poll, schema.attempts.c.delivery_id == _d.c.id).scalar_subquery()
    # Polls count in attempts, but not in round_attempts.
    attempts = _d.c.attempts - case((_d.c.attempts > _d.c.round_attempts, polls), else_=0)
    each = select(_d.c.endpoint, _d.c.event_type, attempts.label("attempts"))
    unfinished = each.where(_d.c.available_at.is_not(None)).subquery().c
    key = (unfinished.endpoint, unfinished.event_type, unfinished.attempts)
    query = select(*key, func.count()).group_by(*key)
    waiting = [Unfinished(*row) for row in connection.execute(query)]
    return statistics(rows, waiting, since=begin, until=now)


def statistics(
    rows: Iterable[Packed], unfinished: Iterable[Unfinished], *, since: float, until: float
) -> Statistics:
    """Compute the statistics of a window.

    Args:
        rows: the sketches of the window, as ``read_rows`` returns them.
        unfinished: the deliveries that have not ended.
        since: seconds since the epoch.
        until: seconds since the epoch.
    """
    waiting = [(Labels("unfinished", each.endpoint, each.event_type), _retried(each)) for each in unfinished]
    window = _with_sums(read_window([*rows, pack(int(until), waiting)]))
    tables = _tables(window)
    hourly = tables["hour"]
    return Statistics(
        since=since,
        until=until,
        overall=_complete(tables["everything"], [EVERY_ENDPOINT]),
        by_endpoint=tables["endpoint"],
        by_event_type=tables["event_type"],
        hourly=_complete(
            hourly, range(int(hourly.index.min()), int(until) + 1, _HOUR) if len(hourly) else ()
        ),
        kinds=_kinds(window.counts),
        delays=_delays(tables["delay"]),
    )


def _retried(each: Unfinished) -> Sketch:
    """Return the retries of unfinished deliveries; those without an attempt are not measured."""
    if not each.attempts:
        return Sketch(each.number)
    retries = each.attempts - 1
    total = each.number * retries * NANOSECONDS
    return Sketch(each.number, total, retries, retries, Counter({bucket_of(retries): each.number}))


def _with_sums(window: SketchWindow) -> SketchWindow:
    """Add the columns that the tables sum up. Replayed dead letters have negative counts."""
    counts = window.counts
    of, result, number = (counts[name].to_numpy() for name in ("measure", "result", "count"))
    is_attempt, is_replay, is_unfinished = of == "attempt", of == "replayed", of == "unfinished"
    is_delivered, is_dead = ((of == "delivery") & (result == each) for each in ("delivered", "dead_letter"))
    is_retry = (of == "retries") | is_unfinished
    sign = is_retry.astype(int) - is_replay
    dead_letter = number * (is_dead.astype(int) - is_replay)
    return window._replace(
        counts=counts.assign(
            success=number * is_delivered,
            dead_letter=dead_letter,
            failed=dead_letter * (counts["detail"] == "permanent"),
            unfinished=number * is_unfinished,
            attempts=number * is_attempt,
            failed_attempts=number * (is_attempt & (result != "delivered")),
            tried=counts["measured"] * sign,
            retries=counts["total"] * sign,
            retries_max=counts["most"].where(is_retry),
        )
    )


def _tables(window: SketchWindow) -> dict[str, DataFrame]:
    """Return tables of everything, and by endpoint, event type, hour, and endpoint and detail of delays, all sorted.

    The last one has all delays, the others only rows that have attempts or events.
    """
    counts = window.counts
    of, result, hour = counts["measure"], counts["result"], counts["hour"]
    kinds = {
        "latency": of == "attempt",
        "end_to_end": (of == "delivery") & (result == "delivered"),
        "first_attempt": of == "first_attempt",
        "delay": of == "delay",
    }
    detail = Series(zip(counts["endpoint"], counts["detail"], strict=True), dtype=object)
    columns = {
        "everything": hour.isna().map({True: EVERY_ENDPOINT}),
        "endpoint": counts["endpoint"],
        "event_type": counts["event_type"],
        "hour": hour.where(of != "unfinished"),
        "delay": detail.where(kinds["delay"] & hour.isna()),
    }
    # Numbered over all tables, and computed at once, since most of the time goes into calls.
    groups, parts, size = [], {}, 0
    for name, column in columns.items():
        group, values = factorize(column, sort=True)
        groups.append(np.where(group < 0, -1, group + size))
        parts[name] = slice(size, size + len(values)), values
        size += len(values)
    sums = counts[[*_SUMS, "count", "retries_max"]].astype(float)
    each = concat([sums] * len(groups)).groupby(np.concatenate(groups))
    found = each[[*_SUMS, "count"]].sum().clip(lower=0).assign(retries_max=each["retries_max"].max())
    found = found.drop(-1, errors="ignore").join(spreads(window, kinds, groups))
    found["retries"] //= NANOSECONDS
    found[_SUMS] = found[_SUMS].astype(int)
    ended = found["success"] + found["dead_letter"]
    is_tried = found["tried"] > 0
    retries = found["retries"].where(is_tried, 0)
    found = found.assign(
        events=ended + found["unfinished"],
        success_rate=found["success"] / ended,
        error_rate=found["failed_attempts"] / found["attempts"],
        retries=retries,
        retries_avg=retries / found["tried"],
        retries_max=found["retries_max"].where(is_tried),
    )
    is_shown = (found["attempts"] > 0) | (found["events"] > 0)
    of_delays = [name for name in map(str, found) if name == "count" or name.startswith("delay_")]
    shown = found.drop(columns=of_delays)
    tables = {
        name: shown[part].set_axis(values)[is_shown[part].to_numpy()]
        for name, (part, values) in parts.items()
    }
    part, values = parts["delay"]
    return tables | {"delay": found.loc[part.start : part.stop - 1, of_delays].set_axis(values)}


def _complete(found: DataFrame, index: Iterable[object]) -> DataFrame:
    """Return these rows, those that are missing without any event."""
    complete = found.reindex(list(index))
    complete[_COUNTS] = complete[_COUNTS].fillna(0).astype(int)
    return complete


def _kinds(counts: DataFrame) -> DataFrame:
    failed, dead = counts[counts["failed_attempts"] > 0], counts[counts["dead_letter"] != 0]
    parts = [
        DataFrame({"kind": kind, "event_type": of["event_type"], "name": of[label], "count": of[number]})
        for kind, of, label, number in (
            ("category", failed, "category", "failed_attempts"),
            ("code", failed, "code", "failed_attempts"),
            ("error_type", failed, "detail", "failed_attempts"),
            ("reason", dead, "detail", "dead_letter"),
        )
    ]
    return concat(parts).groupby(["kind", "event_type", "name"])["count"].sum().reset_index()


def _delays(found: DataFrame) -> DataFrame:
    endpoints = [endpoint for endpoint, _ in found.index]
    details = [DelayOf.from_text(detail) for _, detail in found.index]
    found = found.join(DataFrame(details, found.index, DelayOf._fields))
    names = {"delay_min": "least", "delay_p50": "median", "delay_max": "most"}
    columns = ["endpoint", "policy", "asked", "after", "count", *names.values()]
    found = found.assign(endpoint=endpoints, count=found["count"].astype(int))
    return found.rename(columns=names)[columns].sort_values(columns[:4], ignore_index=True)
