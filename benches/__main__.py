"""``python -m benches [NAME ...] [--events N] [--rounds N]``: measure, and print one table."""

from __future__ import annotations

import argparse

from benches.measuring import Comparison, measure_apart, say, show

BENCHES = ("enqueue", "delivery", "rollups", "task_lane", "memory", "dead_letters", "export")


def main() -> None:
    """Run the benches that are named, or all, each in a process of its own."""
    parser = argparse.ArgumentParser("python -m benches", description="Measure; each bench is a ratio.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)}; all by default")
    parser.add_argument(
        "--events", type=_positive, metavar="N", help="events in a round, instead of the bench's own"
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds, instead of the bench's own")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"no bench is named {min(unknown)!r}; there are {', '.join(BENCHES)}")
    measured: list[tuple[str, Comparison]] = []
    for name in arguments.names or BENCHES:
        say(name)
        comparisons = measure_apart(f"benches.{name}", arguments.events, arguments.rounds)
        measured += ((name, each) for each in comparisons)
    show(measured)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


if __name__ == "__main__":
    main()
