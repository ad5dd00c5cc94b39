"""``make test-again``: run the tests several times in random orders, every second time beside ``stress-ng``, and list the failures."""

import argparse
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-again", description=__doc__)
    parser.add_argument("--runs", type=int, default=6, metavar="N", help="how often (default: %(default)s)")
    parser.add_argument("--first", type=int, help="the first order; by default a random one")
    parser.add_argument("command", nargs="+", help="the command that runs the tests")
    asked = parser.parse_args()
    first = random.randrange(10_000) if asked.first is None else asked.first
    stress = shutil.which("stress-ng")
    if stress is None:
        print("without stress-ng, no run is beside a busy machine: apt-get install stress-ng", flush=True)
    failed = 0
    for number in range(asked.runs):
        order, is_busy = first + number, stress is not None and number % 2 == 1
        began_at = time.monotonic()
        with _busy(stress if is_busy else None):
            said, code = _run([*asked.command, f"--order={order}"])
        failed += code != 0
        print(
            f"{number + 1} of {asked.runs}: {'failed' if code else 'passed'} in {time.monotonic() - began_at:.0f} s,"
            f" order {order}{', beside stress-ng' * is_busy}: {said[-1] if said else f'exit code {code}'}",
            *(line for line in said if re.match("FAILED|ERROR", line)),
            sep="\n  ",
            flush=True,
        )
    print(f"{asked.runs - failed} of {asked.runs} runs passed; repeat an order with make test ARGS=--order=N")
    return int(failed > 0)


def _run(command: list[str]) -> tuple[list[str], int]:
    """Run a command, pass its output on, and return the lines of its summary and its exit code."""
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            said.append(line.strip("= \n"))
    return said[-200:], running.returncode


@contextmanager
def _busy(stress: str | None) -> Iterator[None]:
    """Keep two processors busy during the block."""
    running = subprocess.Popen([stress, "--cpu", "2", "--quiet"]) if stress else None
    try:
        yield
    finally:
        if running is not None:
            running.terminate()
            running.wait()


if __name__ == "__main__":
    sys.exit(main())
