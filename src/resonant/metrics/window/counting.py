"""Statistics of segments: adds up their counts, and takes percentiles over their sorted runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from resonant.metrics.statistics import Attempts, Delays, Events, Figures, Hour, Retries, Spread, Statistics
from resonant.metrics.window.quantiles import quantiles_of
from resonant.metrics.window.segments import ALL, HOUR_SECONDS, PILES, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from resonant.metrics.snapshot import Unfinished
    from resonant.metrics.window.segments import Codes, Floats, Names, Segment

_QUANTILES = (0.5, 0.95, 0.99)


def statistics_of(
    names: Names,
    segments: Sequence[Segment],
    unfinished: Sequence[Unfinished],
    *,
    since: float,
    until: float,
) -> Statistics:
    """Compute the statistics of a window, as ``statistics.statistics`` does from its rows."""
    counts = _counts(names, segments, unfinished)
    runs = _runs(segments, PILES)

    def by_name(place: int, suffix: str, codes: Codes) -> dict[str, Figures]:
        key_of = {name: key for key, (name,) in enumerate(codes)}
        latency, took = runs[f"latency{suffix}"], runs[f"took{suffix}"]
        return {
            name: of_name.figures(_spread(latency.get(key_of.get(name))), _spread(took.get(key_of.get(name))))
            for name, of_name in sorted(counts.by(place).items())
        }

    return Statistics(
        since=since,
        until=until,
        overall=counts.figures(_spread(runs["latency"].get(ALL)), _spread(runs["took"].get(ALL))),
        by_endpoint=by_name(0, "_endpoint", names.endpoints),
        by_event_type=by_name(1, "_type", names.types),
        hourly=_hourly(names, segments, since=since, until=until),
        delays=_delays(names, runs["delay"]),
    )


class _Run(NamedTuple):
    """Sorted values, and their sum."""

    values: Floats
    total: float


def _runs(segments: Iterable[Segment], piles: Iterable[str]) -> dict[str, dict[int | None, list[_Run]]]:
    """Return the sorted runs of these piles, by group."""
    runs: dict[str, dict[int | None, list[_Run]]] = {name: {} for name in piles}
    for segment in segments:
        for name, of_pile in runs.items():
            pile = segment.piles[name]
            for key, start, stop, total in pile.groups:
                of_pile.setdefault(key, []).append(_Run(pile.values[start:stop], total))
    return runs


class _Counts(NamedTuple):
    """The number of attempts of each kind, and the ends of events of each kind; see ``Names``."""

    attempts: list[tuple[tuple[Any, ...], int]]
    ended: list[tuple[tuple[Any, ...], Tally]]

    def by(self, place: int) -> dict[str, _Counts]:
        """Group the counts by one field of their kinds."""
        found: defaultdict[str, _Counts] = defaultdict(lambda: _Counts([], []))
        for kind, number in self.attempts:
            found[kind[place]].attempts.append((kind, number))
        for kind, tally in self.ended:
            found[kind[place]].ended.append((kind, tally))
        return found

    def figures(self, latency: Spread, end_to_end: Spread) -> Figures:
        """Add up the counts."""
        failures = [(kind, number) for kind, number in self.attempts if kind[2] != "delivered"]
        by_status, reasons = Counter[str](), Counter[str]()
        for (_, _, status, reason), tally in self.ended:
            by_status[status] += tally.number
            if status == "dead_letter" and reason is not None:
                reasons[reason] += tally.number
        tried = sum(tally.tried for _, tally in self.ended)
        total = sum(tally.retries for _, tally in self.ended)
        return Figures(
            events=Events(
                total=by_status.total(),
                success=by_status["delivered"],
                dead_letter=by_status["dead_letter"],
                failed=reasons["permanent"],
                unfinished=by_status["unfinished"],
            ),
            attempts=Attempts(
                total=sum(number for _, number in self.attempts), failed=sum(number for _, number in failures)
            ),
            latency=latency,
            end_to_end=end_to_end,
            retries=Retries(
                total=total,
                avg=total / tried if tried else None,
                max=max(tally.most for _, tally in self.ended if tally.tried) if tried else None,
            ),
            reasons=_ranked(reasons.items()),
            error_categories=_ranked((kind[3], number) for kind, number in failures),
            error_codes=_ranked((kind[4], number) for kind, number in failures),
            error_types=_ranked((kind[5], number) for kind, number in failures),
        )


def _counts(names: Names, segments: Sequence[Segment], unfinished: Iterable[Unfinished]) -> _Counts:
    kinds = list(names.attempts)
    attempts = Counter[int]()
    for segment in segments:
        attempts.update(segment.attempt_counts)
    counted = [(kinds[code], number) for code, number in attempts.items()]
    kinds = list(names.ended)
    ended = [(kinds[code], tally) for segment in segments for code, tally in segment.ended_counts.items()]
    for each in unfinished:
        tried = each.number if each.attempts else 0
        retries = max(0, each.attempts - 1)
        tally = Tally(each.number, tried, tried * retries, retries)
        ended.append(((each.endpoint, each.event_type, "unfinished", None), tally))
    return _Counts(counted, ended)


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
        # Not beyond the window: a worker's clock may be years ahead.
        if segment.size and since - HOUR_SECONDS < segment.hour <= until:
            of_hours[segment.hour].append(segment)
    if not of_hours:
        return ()
    return tuple(
        _hour(names, hour, of_hours.get(hour, []))
        for hour in range(min(of_hours), int(until) + 1, HOUR_SECONDS)
    )


def _hour(names: Names, start: int, segments: Sequence[Segment]) -> Hour:
    latency = _spread(_runs(segments, ["latency"])["latency"].get(ALL))
    figures = _counts(names, segments, ()).figures(latency, Spread())
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


def _spread(runs: Sequence[_Run] | None) -> Spread:
    if not runs:
        return Spread()
    values = [run.values for run in runs]
    average = sum(run.total for run in runs) / sum(map(len, values))
    low, high = float(min(run[0] for run in values)), float(max(run[-1] for run in values))
    p50, p95, p99 = quantiles_of(values, _QUANTILES)
    return Spread(low, average, p50, p95, p99, high)
