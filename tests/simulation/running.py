"""Runs worlds, shortens those that break an invariant, and plants bugs."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from simulation.broken import Broken
from simulation.database import OpenServer, SQLiteServer
from simulation.plan import Plan
from simulation.world import World

MUTANTS = Path(__file__).parent / "mutants"
_ROOT = Path(__file__).parents[2]
_SHOWN_LINES, _SHOWN_CHARACTERS = 60, 150


class Result(NamedTuple):
    """The end of a world.

    Attributes:
        broken: the invariant that does not hold, if any.
        seconds: simulated seconds.
        cpu: seconds of CPU.
    """

    plan: Plan
    broken: Broken | None
    trace: list[str]
    digest: str
    seconds: float
    cpu: float

    def __str__(self) -> str:
        found = "ok" if self.broken is None else f"BROKEN {self.broken}"
        return f"seed {self.plan.seed}: {found} ({self.seconds:.0f} s simulated in {self.cpu:.1f} s of CPU)"


def run(plan: Plan, open_server: OpenServer = SQLiteServer) -> Result:
    """Run a world to its end."""
    began_at, world, broken = time.process_time(), World(plan, open_server), None
    try:
        world.run()
    except Broken as error:
        broken = error
    except Exception as error:  # noqa: BLE001 - the code under test may raise anything
        broken = Broken("error", repr(error), error)
    cpu = time.process_time() - began_at
    return Result(plan, broken, world.trace, world.digest(), world.loop.time() - 1_000, cpu)


def run_each(
    seeds: Iterable[int], open_server: OpenServer = SQLiteServer, *, cpu: float, **size: float
) -> Iterator[Result]:
    """Run the plans of these seeds, until they have used this much CPU."""
    left = cpu
    for seed in seeds:
        if left <= 0:
            return
        yield (result := run(Plan.draw(seed, **size), open_server))
        left -= result.cpu


def shorten(
    found: Result,
    open_server: OpenServer = SQLiteServer,
    *,
    cpu: float = 60.0,
    on_shorter: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Return the smallest world found in this time that breaks the same invariant."""
    is_smaller = True
    while is_smaller and cpu > 0:
        is_smaller = False
        for plan in found.plan.shorter():
            tried = run(plan, open_server)
            cpu -= tried.cpu
            if tried.broken is not None and found.broken and tried.broken.invariant == found.broken.invariant:
                found, is_smaller = tried, True
                on_shorter(found)
                break
            if cpu <= 0:
                break
    return found


def describe(found: Result) -> str:
    """Describe a world that breaks an invariant: what happens in it, and the end of its trace."""
    plan = found.plan
    lines = [
        f"{found.broken}",
        f"{plan.processes} processes, {plan.endpoints} endpoints, {plan.events} events, leases of {plan.lease_seconds:g} s",
        f"clocks ahead by {', '.join(f'{each:g}' for each in plan.skews)} s",
        *(f"  {fault}" for fault in plan.faults),
        *found.trace[-_SHOWN_LINES:],
    ]
    return "\n".join(lines)


class Planted(NamedTuple):
    """A planted bug.

    Attributes:
        name: of its patch.
        invariants: one of them must break.
        seed: of a world in which one broke, where the hunt begins; 1 if none is known.
        text: the patch.
    """

    name: str
    invariants: list[str]
    seed: int
    text: str


def planted() -> list[Planted]:
    """Return the planted bugs."""
    found = []
    for path in sorted(MUTANTS.glob("*.patch")):
        text = path.read_text()
        [(invariants, seed)] = re.findall(r"^Invariant: ([\w -]+)\n(?:Seed: (\d+)\n)?", text, re.MULTILINE)
        found.append(Planted(path.stem, invariants.split(" or "), int(seed or 1), text))
    return found


def copy_code(folder: Path) -> Path:
    """Copy the code into a folder, with its cached bytecode, which stays valid for the files that no patch changes."""
    shutil.copytree(_ROOT / "src", folder / "src")
    return folder


def apply(bug: Planted, folder: Path, *options: str) -> str:
    """Plant a bug in a copy of the code; return why its patch does not apply, or an empty text."""
    command = ["git", "apply", *options, "-"]
    return subprocess.run(
        command, cwd=folder, input=bug.text, capture_output=True, text=True, check=False
    ).stderr


class Hunted(NamedTuple):
    """The end of a hunt.

    Attributes:
        is_found: whether one of the bug's invariants broke.
        line: what was found, shortened.
        seconds: how long it took.
    """

    bug: Planted
    is_found: bool
    line: str
    seconds: float


def hunt(bug: Planted, *options: str, cpu: float) -> Hunted:
    """Run worlds with a planted bug and these options until an invariant breaks: its own seed, then others for this much CPU."""
    began_at = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = copy_code(Path(name))
        if why := apply(bug, folder):
            return Hunted(bug, is_found=False, line=f"DOES NOT APPLY: {why}", seconds=0.0)
        environment = os.environ | {"PYTHONPATH": f"{folder}/src{os.pathsep}{_ROOT}/tests"}
        line = ""
        for seeds in (["--from", str(bug.seed), "--seeds", "1"], ["--from", "1", "--seconds", str(cpu)]):
            command = [sys.executable, "-m", "simulation", *seeds, "--quiet", *options]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            ends = [
                line
                for line in done.stdout.splitlines()
                if "BROKEN" in line or "every invariant held" in line
            ]
            line = ends[0][:_SHOWN_CHARACTERS] if ends else done.stderr[-_SHOWN_CHARACTERS:]
            if any(f"BROKEN {name}: " in line for name in bug.invariants):
                return Hunted(bug, is_found=True, line=line, seconds=time.monotonic() - began_at)
    return Hunted(bug, is_found=False, line=line, seconds=time.monotonic() - began_at)


def hunt_each(bugs: Iterable[Planted], *options: str, cpu: float, processes: int) -> Iterator[Hunted]:
    """Hunt for bugs, several at a time; yield each when its hunt ends."""
    with ThreadPoolExecutor(processes) as pool:
        for done in as_completed([pool.submit(hunt, bug, *options, cpu=cpu) for bug in bugs]):
            yield done.result()
