"""``python -m benches [NAME ...] [--events N] [--rounds N]``: measure, and print what came out as a table.

``python -m benches plot FILE`` draws what ``--json FILE`` has written of the comparison.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benches.measuring import Comparison, measure_apart, say, show
from benches.standings import Standing, show_standings

BENCHES = (
    "enqueue",
    "delivery",
    "rollups",
    "task_lane",
    "memory",
    "dead_letters",
    "export",
    "growth",
    "comparison",
)


def main() -> None:
    """Run the benches that are named, or all, each in a process of its own."""
    if sys.argv[1:2] == ["plot"]:
        from benches.plot import main as plot

        plot(sys.argv[2:])
        return
    parser = argparse.ArgumentParser("python -m benches", description="Measure; each bench is a ratio.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)}; all by default")
    parser.add_argument(
        "--events", type=_positive, metavar="N", help="events in a round, instead of the bench's own"
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds, instead of the bench's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came out there, too")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PART",
        default=[],
        help="of the comparison, only contenders with this in their name, and the raw loop; may be given again",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"no bench is named {min(unknown)!r}; there are {', '.join(BENCHES)}")
    comparisons: list[tuple[str, Comparison]] = []
    standings: list[Standing] = []
    for name in arguments.names or BENCHES:
        say(name)
        options: dict[str, Any] = {"only": arguments.only} if name == "comparison" else {}
        for found in measure_apart(f"benches.{name}", arguments.events, arguments.rounds, **options):
            if isinstance(found, Standing):
                standings.append(found)
            else:
                comparisons.append((name, found))
    if arguments.json:
        from benches.results import write_results

        write_results(arguments.json, comparisons, standings)
    if standings:
        show_standings(standings)
    if comparisons:
        show(comparisons)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


if __name__ == "__main__":
    main()
