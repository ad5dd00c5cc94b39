"""Statistics of segments: counts are added up, percentiles taken over their sorted runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from resonant.stats import Attempts, Delays, Events, Figures, Hour, Retries, Spread, Statistics
from resonant.window.quantiles import quantiles_of
from resonant.window.segments import ALL, HOUR_SECONDS, PILES, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from resonant.store.measuring import Unfinished
    from resonant.window.segments import Floats, Names, Segment

_QUANTILES = (0.5, 0.95, 0.99)


def statistics_of(
    names: Names,
    segments: Sequence[Segment],
    unfinished: Sequence[Unfinished],
    *,
    since: float,
    until: float,
) -> Statistics:
    """Compute the statistics of a window, as ``stats.statistics`` does from its rows."""
    attempts = _Sums(names, segments, unfinished)
    runs = _runs(segments)

    def figures(place: int | None, name: str | None, suffix: str, key: int | None) -> Figures:
        return attempts.figures(
            lambda kind: place is None or kind[place] == name,
            _spread(runs[f"latency{suffix}"].get(key, [])),
            _spread(runs[f"took{suffix}"].get(key, [])),
        )

    by_name = []
    for place, suffix, codes in ((0, "_endpoint", names.endpoints), (1, "_type", names.types)):
        key_of = {name: key for key, (name,) in enumerate(codes)}
        found = sorted(attempts.names(place))
        by_name.append({name: figures(place, name, suffix, key_of.get(name)) for name in found})
    return Statistics(
        since=since,
        until=until,
        overall=figures(None, None, "", ALL),
        by_endpoint=by_name[0],
        by_event_type=by_name[1],
        hourly=_hourly(names, segments, since=since, until=until),
        delays=_delays(names, runs["delay"]),
    )


class _Run(NamedTuple):
    """Sorted values, and their sum."""

    values: Floats
    total: float


def _runs(segments: Iterable[Segment]) -> dict[str, dict[int | None, list[_Run]]]:
    """Return the runs of each group of each pile."""
    runs: dict[str, dict[int | None, list[_Run]]] = {name: {} for name in PILES}
    for segment in segments:
        for name, pile in segment.piles.items():
            for key, start, stop, total in pile.groups:
                runs[name].setdefault(key, []).append(_Run(pile.values[start:stop], total))
    return runs


class _Sums:
    """Counts by kind, added up."""

    def __init__(self, names: Names, segments: Iterable[Segment], unfinished: Iterable[Unfinished]) -> None:
        attempts, ended = Counter[int](), defaultdict[int, list[Tally]](list)
        for segment in segments:
            attempts.update(segment.attempt_counts)
            for kind, tally in segment.ended_counts.items():
                ended[kind].append(tally)
        kinds = list(names.attempts)
        self._attempts = {kinds[code]: number for code, number in attempts.items()}
        kinds = list(names.ended)
        self._deliveries = {kinds[code]: tallies for code, tallies in ended.items()}
        for each in unfinished:
            tried = each.number if each.attempts else 0
            retries = max(0, each.attempts - 1)
            tally = Tally(each.number, tried, tried * retries, retries)
            key = (each.endpoint, each.event_type, "unfinished", None)
            self._deliveries.setdefault(key, []).append(tally)

    def names(self, place: int) -> set[str]:
        return {str(kind[place]) for kind in (*self._attempts, *self._deliveries)}

    def figures(
        self, is_counted: Callable[[tuple[Any, ...]], bool], latency: Spread, end_to_end: Spread
    ) -> Figures:
        attempts = [(kind, number) for kind, number in self._attempts.items() if is_counted(kind)]
        failures = [(kind, number) for kind, number in attempts if kind[2] != "delivered"]
        ends = [
            (kind[2], kind[3], tally)
            for kind, tallies in self._deliveries.items()
            if is_counted(kind)
            for tally in tallies
        ]
        by_status, reasons = Counter[str](), Counter[str]()
        for status, reason, tally in ends:
            by_status[status] += tally.number
            if status == "dead_letter" and reason is not None:
                reasons[reason] += tally.number
        tried = sum(tally.tried for *_, tally in ends)
        total = sum(tally.retries for *_, tally in ends)
        return Figures(
            events=Events(
                total=by_status.total(),
                success=by_status["delivered"],
                dead_letter=by_status["dead_letter"],
                failed=reasons["permanent"],
                unfinished=by_status["unfinished"],
            ),
            attempts=Attempts(
                total=sum(number for _, number in attempts), failed=sum(number for _, number in failures)
            ),
            latency=latency,
            end_to_end=end_to_end,
            retries=Retries(
                total=total,
                avg=total / tried if tried else None,
                max=max(tally.most for *_, tally in ends if tally.tried) if tried else None,
            ),
            reasons=_ranked(reasons.items()),
            error_categories=_ranked((kind[3], number) for kind, number in failures),
            error_codes=_ranked((kind[4], number) for kind, number in failures),
            error_types=_ranked((kind[5], number) for kind, number in failures),
        )


def _ranked(counted: Iterable[tuple[str | None, int]]) -> dict[str, int]:
    counts = Counter[str]()
    for name, number in counted:
        if name is not None:
            counts[name] += number
    found = [item for item in counts.items() if item[1]]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))


def _hourly(names: Names, segments: Sequence[Segment], *, since: float, until: float) -> tuple[Hour, ...]:
    of_hours: defaultdict[int, list[Segment]] = defaultdict(list)
    for segment in segments:
        # Not beyond the window, as a clock may be years ahead.
        if segment.size and since - HOUR_SECONDS < segment.hour <= until:
            of_hours[segment.hour].append(segment)
    if not of_hours:
        return ()
    return tuple(
        _hour(names, hour, of_hours.get(hour, []))
        for hour in range(min(of_hours), int(until) + 1, HOUR_SECONDS)
    )


def _hour(names: Names, start: int, segments: Sequence[Segment]) -> Hour:
    figures = _Sums(names, segments, ()).figures(
        lambda _: True, _spread(_runs(segments)["latency"].get(ALL, [])), Spread()
    )
    return Hour(
        start=start,
        attempts=figures.attempts.total,
        failed_attempts=figures.attempts.failed,
        success=figures.events.success,
        dead_letter=figures.events.dead_letter,
        latency=figures.latency,
    )


def _delays(names: Names, runs: Mapping[int | None, Sequence[_Run]]) -> tuple[Delays, ...]:
    kinds = list(names.delays)
    found = []
    for key, of_kind in runs.items():
        endpoint, policy, after, asked = kinds[key or 0]
        values = [run.values for run in of_kind]
        [median] = quantiles_of(values, (0.5,))
        low, high = float(min(run[0] for run in values)), float(max(run[-1] for run in values))
        count = sum(map(len, values))
        found.append(Delays(endpoint, policy or None, after, asked, count, low, median, high))
    return tuple(sorted(found, key=lambda each: (each.endpoint, each.policy or "", each.after, each.asked)))


def _spread(runs: Sequence[_Run]) -> Spread:
    if not runs:
        return Spread()
    values = [run.values for run in runs]
    average = sum(run.total for run in runs) / sum(map(len, values))
    low, high = float(min(run[0] for run in values)), float(max(run[-1] for run in values))
    p50, p95, p99 = quantiles_of(values, _QUANTILES)
    return Spread(low, average, p50, p95, p99, high)
