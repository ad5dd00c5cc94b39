"""Runs both sides in alternating rounds, so that other load on the machine affects both, and prints the results."""

from __future__ import annotations

import importlib
import multiprocessing
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from benches.tables import number, print_table

if TYPE_CHECKING:
    from benches.standings import Standing

P = ParamSpec("P")
T = TypeVar("T")

_ROUNDS = 3
_ERROR_WIDTH = 300


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measurements of both sides, by round.

    Attributes:
        what: a short description.
        unit: the unit of both sides.
        ours, baseline: one value per round; the values of a round were measured one after the other.
        against: the name of the baseline.
        ratio_at_least, ratio_at_most, ours_at_least, ours_at_most: targets for the median; None for no target.
    """

    what: str
    unit: str
    ours: Sequence[float]
    baseline: Sequence[float]
    against: str
    ratio_at_least: float | None = None
    ratio_at_most: float | None = None
    ours_at_least: float | None = None
    ours_at_most: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Our values divided by the baseline's, pair by pair."""
        return [ours / baseline for ours, baseline in zip(self.ours, self.baseline, strict=True)]

    @property
    def targets(self) -> dict[str, bool]:
        """The targets in words, and whether the median meets them."""
        ratio, ours = statistics.median(self.ratios), statistics.median(self.ours)
        found = {}
        if self.ratio_at_least is not None:
            found[f"ratio ≥ {self.ratio_at_least:g}"] = ratio >= self.ratio_at_least
        if self.ratio_at_most is not None:
            found[f"ratio ≤ {self.ratio_at_most:g}"] = ratio <= self.ratio_at_most
        if self.ours_at_least is not None:
            found[f"≥ {number(self.ours_at_least)} {self.unit}"] = ours >= self.ours_at_least
        if self.ours_at_most is not None:
            found[f"≤ {number(self.ours_at_most)} {self.unit}"] = ours <= self.ours_at_most
        return found


class Interrupted(KeyboardInterrupt):
    """A bench was interrupted after measuring something.

    Args:
        found: its measurements so far.
    """

    def __init__(self, found: list[Comparison | Standing]) -> None:
        super().__init__(found)
        self.found = found


def apart(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function in its own process, without the imports of other benches.

    Raises:
        Interrupted: the function was interrupted after measuring something; a terminal interrupts both processes.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        called = process.submit(function, *arguments, **options)
        try:
            return called.result()
        except KeyboardInterrupt as interrupt:
            error = called.exception()
            raise (error if isinstance(error, Interrupted) else interrupt) from None


def is_chosen(name: str, only: Sequence[str]) -> bool:
    """Return whether a part of a bench runs; ``only`` has parts of the names, or nothing for all."""
    return not only or any(part.lower() in name.lower() for part in only)


def measure_apart(
    module: str, count: int | None, rounds: int | None, only: Sequence[str]
) -> list[Comparison | Standing]:
    """Run a bench in its own process.

    Args:
        module: the bench's module.
        count: events per round; None for the bench's default.
        rounds: number of rounds; None for the bench's default.
        only: parts of names; empty for all.
    """
    found: list[Comparison | Standing] = apart(_measure, module, count, rounds, only)
    if only and not found:
        raise ValueError(f"--only {min(only)!r} selects nothing: see the text of {module}")
    return found


def _measure(
    module: str, count: int | None, rounds: int | None, only: Sequence[str]
) -> list[Comparison | Standing]:
    bench = importlib.import_module(module)
    found: list[Comparison | Standing] = bench.run(
        count or bench.EVENTS, rounds or getattr(bench, "ROUNDS", _ROUNDS), only
    )
    return found


class Stopwatch:
    """Measures wall-clock and CPU seconds of this process (all its threads) within the block."""

    seconds: float
    cpu_seconds: float

    def __enter__(self) -> Self:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start[0]
        self.cpu_seconds = time.process_time() - self._start[1]


def in_one_line(error: BaseException) -> str:
    """Return an error's message, shortened if it is long."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", _ERROR_WIDTH, placeholder=" …")


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def show(comparisons: Iterable[tuple[str, Comparison]]) -> None:
    """Print the table of comparisons."""
    rows = []
    for name, each in comparisons:
        ratios = each.ratios
        rows.append(
            (
                name,
                f"{each.what}, {each.unit}",
                number(statistics.median(each.ours)),
                f"{number(statistics.median(each.baseline))} {each.against}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                "; ".join(f"{text}: {'met' if met else 'MISSED'}" for text, met in each.targets.items()),
            )
        )
    headings = ("bench", "what", "ours", "baseline", "ratio (range)", "target")
    print_table(headings, {"ours", "baseline"}, rows)
