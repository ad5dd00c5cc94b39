"""``make simulate``: run simulated worlds from seeds, and say which invariant breaks."""

import argparse
import itertools
import logging
import os
import random
import sys
import time
from contextlib import nullcontext

from simulation.database import OpenServer, SQLiteServer
from simulation.plan import FULL, Plan
from simulation.postgresql import opened_postgresql
from simulation.running import describe, hunt_each, planted, run, run_each, shorten


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run only this seed, and print its trace")
    parser.add_argument("--from", dest="first", type=int, help="the first seed; by default a random one")
    parser.add_argument(
        "--seeds", type=int, help="how many seeds to run; by default, as many as --seconds allow"
    )
    parser.add_argument(
        "--seconds", type=float, help="seconds of CPU (default: 60, and 30 for each planted bug)"
    )
    parser.add_argument("--full", action="store_true", help="worlds of ten minutes, with 2,000 events")
    parser.add_argument(
        "--mutants", nargs="?", const="", help="plant each bug whose name contains this, and hunt for it"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count() or 1,
        help="how many bugs to hunt for at a time (default: %(default)s, as many as processors)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="do not shorten a world that breaks an invariant"
    )
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="SQLite in memory, or a PostgreSQL server (default: %(default)s)",
    )
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _error: None  # closed coroutines of killed processes
    if asked.mutants is not None:
        return _hunt_all(asked.mutants, asked.seconds or 30.0, asked.processes, "--database", asked.database)
    is_sqlite = asked.database == "sqlite"
    with nullcontext(SQLiteServer) if is_sqlite else opened_postgresql() as open_server:
        return _run(asked, open_server)


def _run(asked: argparse.Namespace, open_server: OpenServer) -> int:
    size = FULL if asked.full else {}
    if asked.seed is not None:
        found = run(Plan.draw(asked.seed, **size), open_server)
        print(*found.trace, found, sep="\n")
        return int(found.broken is not None)
    first = random.randrange(10**9) if asked.first is None else asked.first
    seeds = itertools.count(first) if asked.seeds is None else range(first, first + asked.seeds)
    cpu = (asked.seconds or 60.0) if asked.seeds is None else float("inf")
    count, used = 0, 0.0
    for found in run_each(seeds, open_server, cpu=cpu, **size):
        count, used = count + 1, used + found.cpu
        if found.broken is not None:
            print(f"{found}; {count} seeds, {used:.0f} s of CPU")
            if not asked.quiet:
                print(describe(shorten(found, open_server)))
            options = f"SEED={found.plan.seed} DATABASE={asked.database}" + " ARGS=--full" * asked.full
            print(f"repeat the whole world: make simulate {options}")
            return 1
        if asked.full:
            print(found, flush=True)
    print(f"{count} seeds from {first} on, {used:.0f} s of CPU: every invariant held")
    return 0


def _hunt_all(name: str, cpu: float, processes: int, *options: str) -> int:
    bugs = [bug for bug in planted() if name in bug.name]
    if not bugs:
        print(
            f"simulation: no planted bug has {name!r} in its name; see tests/simulation/mutants",
            file=sys.stderr,
        )
        return 2
    began_at, missed = time.monotonic(), 0
    for number, (bug, is_found, line, seconds) in enumerate(
        hunt_each(bugs, *options, cpu=cpu, processes=processes), 1
    ):
        missed += not is_found
        is_elsewhere = is_found and f"seed {bug.seed}:" not in line
        print(
            f"{number:3}/{len(bugs)} {'found' if is_found else 'MISSED'} {bug.name} in {seconds:.0f} s"
            f" ({' or '.join(bug.invariants)}): {line}"
            + f"; not by the seed {bug.seed} of its patch"
            * is_elsewhere,
            flush=True,
        )
    print(f"{len(bugs) - missed} of {len(bugs)} planted bugs found in {time.monotonic() - began_at:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
