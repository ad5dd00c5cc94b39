"""``python -m benches failing_types [SCENARIO ...]``: events of a type that always fails must not stop those of other types.

Drains send to a receiver that answers 503 to the type ``bad``, and 200 to all other types. A share counts the good events that
were accepted by the end of the run; those of its last two seconds do not count.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from benches.comparing import in_one_line, is_chosen, say
from benches.results import machine
from benches.tables import number, print_table
from benches.typed_receiver import BAD, Conduct
from benches.typed_run import GOOD, Load, Run, measure
from resonant.dispatch.limits import Lane

_SECONDS, _LEAST_SECONDS = 90, 40
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a run, and its target.

    Attributes:
        what: a short description.
        of: returns it.
        at_least, at_most: the target; None for none.
    """

    what: str
    of: Callable[[Run], float]
    at_least: float | None = None
    at_most: float | None = None

    def target(self) -> str:
        """Return the target in words."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "-" if self.at_most is None else f"≤ {self.at_most:g}"

    def is_reached(self, value: float) -> bool | None:
        """Return whether a value reaches the target; None without a target."""
        if self.at_least is not None:
            return value >= self.at_least
        return None if self.at_most is None else value <= self.at_most


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario.

    Attributes:
        name: its name.
        figures: what is measured.
        load: the events and the receiver.
    """

    name: str
    figures: tuple[Figure, ...]
    load: Load


def _share(since: float) -> Figure:
    what = f"share of the good due from {since:g} s on" if since else "share of the good"
    return Figure(what, lambda run: run.share(since), at_least=0.95)


def _all_after(since: float, at_most: float | None) -> Figure:
    return Figure("s until all are delivered", lambda run: max(0.0, run.last() - since), at_most=at_most)


def _peak(capacity: int) -> Figure:
    return Figure("busiest second ÷ capacity", lambda run: run.peak() / capacity, at_most=2)


def _scenarios(seconds: float) -> Iterator[Scenario]:
    """Make the scenarios.

    Args:
        seconds: the duration of those at steady rates, from the end of an outage on.
    """
    yield Scenario("never-down", (_share(0),), Load(rates=(20, 5), seconds=seconds))
    for rate in (5, 20):
        since_end = Figure("share of the good due after the outage", lambda run: run.share(30))
        load = Load(Conduct(outages=[(10, 30)]), rates=(rate, 5), seconds=30 + seconds)
        yield Scenario(f"after-outage-{rate}", (_share(45), since_end), load)
    yield Scenario("mostly-bad", (_share(0),), Load(rates=(40, 5), seconds=seconds))
    first = Figure("s until the first good one", Run.first, at_most=10)
    backlog = Load(rates=(0, 5), at_start=((BAD, 2_000, 3_000),), seconds=seconds)
    yield Scenario("old-backlog", (first, _share(30)), backlog)
    yield Scenario("bad-first", (_all_after(0, 60),), Load(at_start=((BAD, 800, 0), (GOOD, 200, 0))))
    for limit in (1, 5, 50):
        load = Load(Conduct(capacity=limit), at_start=((GOOD, 1_000, 0),), seconds=60)
        yield Scenario(f"capacity-{limit}", (_peak(limit),), load)
    flap = Conduct(outages=[(3 * each, 3 * each + 1.5) for each in range(20)])
    yield Scenario("flap", (_all_after(60, 30),), Load(flap, at_start=((GOOD, 3_000, 0),)))
    half = Conduct(outages=[(0, 30)], capacity=50, failures=0.5)
    yield Scenario("half-failing", (_all_after(30, None),), Load(half, at_start=((GOOD, 1_000, 0),)))


def main(argv: Sequence[str]) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benches failing_types", description=__doc__)
    names = [each.name for each in _scenarios(_SECONDS)]
    parser.add_argument(
        "names", nargs="*", metavar="SCENARIO", help=f"{', '.join(names)}, or parts of names; all by default"
    )
    parser.add_argument(
        "--database", action="append", choices=("sqlite", "postgresql"), help="repeatable; sqlite by default"
    )
    parser.add_argument(
        "--drains", action="append", type=int, choices=(1, 2), help="repeatable; 1 by default"
    )
    parser.add_argument("--lane", choices=get_args(Lane), default="auto", help="of the drains")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="runs of each scenario")
    parser.add_argument(
        "--seconds",
        type=float,
        default=_SECONDS,
        metavar="N",
        help=f"seconds of steady rates, after an outage; {_SECONDS} by default, at least {_LEAST_SECONDS}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    options = parser.parse_args(argv)
    if options.seconds < _LEAST_SECONDS:
        parser.error(f"--seconds must be at least {_LEAST_SECONDS}")
    for part in options.names:
        if not any(is_chosen(name, [part]) for name in names):
            parser.error(f"no scenario is named {part!r}; the scenarios are {', '.join(names)}")
    # A whole name selects only that scenario: capacity-5 does not select capacity-50.
    only = [part for part in options.names if part not in names]
    chosen = [
        each
        for each in _scenarios(options.seconds)
        if each.name in options.names or ((only or not options.names) and is_chosen(each.name, only))
    ]
    databases, numbers = options.database or ["sqlite"], options.drains or [1]
    rows: list[dict[str, Any]] = []
    code = 0
    try:
        for scenario, database, drains in itertools.product(chosen * options.rounds, databases, numbers):
            say(f"{scenario.name}, {database}, drains: {drains}")
            try:
                run = measure(scenario.load, database, drains, options.lane)
            except Exception as error:  # noqa: BLE001 - the other scenarios still run
                say(f"  failed: {in_one_line(error)}")
                code = 1
                continue
            say(f"  {run.in_short()}")
            rows += [_row(scenario, database, drains, each, run) for each in scenario.figures]
    except KeyboardInterrupt:
        code = _INTERRUPTED
    headings = ("scenario", "database", "drains", "what", "figure", "target", "reached")
    print_table(headings, {"drains", "figure"}, [[str(each[name]) for name in headings] for each in rows])
    if options.json:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        options.json.write_text(json.dumps({"at": at, "machine": machine(), "rows": rows}, indent=1) + "\n")
    sys.exit(code)


def _row(scenario: Scenario, database: str, drains: int, figure: Figure, run: Run) -> dict[str, Any]:
    value = figure.of(run)
    reached = {None: "-", True: "reached", False: "MISSED"}[figure.is_reached(value)]
    shown = number(value) if math.isfinite(value) else f"not in {run.end:.0f} s"
    return {
        "scenario": scenario.name,
        "database": database,
        "drains": drains,
        "what": figure.what,
        "figure": shown,
        "value": value if math.isfinite(value) else None,
        "target": figure.target(),
        "reached": reached,
    }
