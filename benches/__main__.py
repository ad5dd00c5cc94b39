"""``python -m benches [NAME ...] [--events N] [--rounds N]``: runs benches and prints the results as a table.

A bench that fails prints its error, and the rest continue. ``python -m benches simulations`` prints the table of
docs/retries.md, and ``python -m benches failing_types`` measures whether a type of event that always fails stops the others.
"""

import argparse
import importlib
import sys
from pathlib import Path

from benches.comparing import Interrupted, in_one_line, measure_apart, say, show
from benches.contenders import RAW_LOOP
from benches.results import Results, write_results
from benches.standings import show_standings

BENCHES = ("up", "endpoints", "comparison", "outage", "isolation", "pressure", "latency", "intake", "console")
_COMMANDS = ("failing_types", "simulations", "webhook_runs")
_INTERRUPTED = 130


def main() -> None:
    """Run the named benches, or all, each in its own process."""
    if (command := " ".join(sys.argv[1:2])) in _COMMANDS:
        importlib.import_module(f"benches.{command}").main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        "python -m benches", description="Run benches; each result is a ratio to a baseline."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)}; all by default")
    parser.add_argument(
        "--events", type=_positive, metavar="N", help="events per round; overrides the bench's default"
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds; overrides the bench's default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PART",
        default=[],
        help="run only the contenders of the comparison (and the raw loop), or parts of other benches, whose names contain this; "
        "repeatable",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"no bench is named {min(unknown)!r}; the benches are {', '.join(BENCHES)}")
    sys.exit(_run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    """Run the benches, even if some fail; return the exit code."""
    results = Results()
    code = 0
    for name in arguments.names or BENCHES:
        say(name)
        try:
            found = measure_apart(f"benches.{name}", arguments.events, arguments.rounds, arguments.only)
            results.add(name, found)
        except KeyboardInterrupt as interrupt:
            results.add(name, interrupt.found if isinstance(interrupt, Interrupted) else [])
            results.failed[name] = "interrupted"
            code = _INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the other benches still run
            results.failed[name] = in_one_line(error)
            say(f"  {name} failed: {results.failed[name]}")
            code = 1
        if arguments.json:
            write_results(arguments.json, results)
        if code == _INTERRUPTED:
            break
    _show(results)
    return code


def _show(results: Results) -> None:
    if results.standings:
        show_standings(results.standings, results.standing_of(RAW_LOOP.name))
    if results.comparisons:
        show(results.comparisons)
    for name, why in results.failed.items():
        print(f"{name} failed: {why}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    main()
