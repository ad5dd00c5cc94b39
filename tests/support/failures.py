"""What a failing test prints: the load of the machine, and the last lines of the processes that wrote during the test."""

import os
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

_LINES, _LINE_CHARACTERS = 20, 500
_PRESSURE = Path("/proc/pressure")
_outputs: dict[Path, str] = {}
_began = [0.0]


def show_on_failure(name: str, output: Path) -> None:
    """Show the last lines of this file if a test fails while a process writes to it."""
    _outputs[output] = name


def machine_load() -> str:
    """Describe the load of the machine, which may be why a test failed."""
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    memory = psutil.virtual_memory()
    lines = [
        f"load {loads} on {os.cpu_count()} processors, {memory.available >> 20:,} MiB of memory available"
    ]
    for kind in ("cpu", "memory", "io"):
        with suppress(OSError):  # not every kernel has these files
            some = (_PRESSURE / kind).read_text().partition("\n")[0]
            lines.append(f"pressure on {kind}: {some}")
    return "\n".join(lines)


def last_lines() -> list[tuple[str, str]]:
    """Return the last lines of each output that was written to since the test began, with the process's name."""
    found = []
    for path, name in _outputs.items():
        with suppress(OSError):  # it may have been removed
            if path.stat().st_mtime >= _began[-1] and path.stat().st_size:
                lines = path.read_text(errors="replace").splitlines()[-_LINES:]
                found.append((name, "\n".join(line[:_LINE_CHARACTERS] for line in lines)))
    return found


def pytest_runtest_logstart() -> None:
    _began[:] = [time.time()]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("The machine", machine_load()))
        report.sections += [(f"The last lines of {name}", lines) for name, lines in last_lines()]
    return report
