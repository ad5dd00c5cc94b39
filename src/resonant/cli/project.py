"""The checkout that the flows live in: the package alone (a wheel) can read and enqueue, and emits nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from resonant.errors import ResonantError


def project_directory() -> Path:
    """Return the folder of ``prefect.yaml`` and the flows.

    Raises:
        ResonantError: this is an installed wheel, which has no flows.
    """
    folder = Path(__file__).resolve().parents[3]
    if not (folder / "prefect.yaml").is_file() or not (folder / "flows").is_dir():
        raise ResonantError(
            "this command runs flows, and an installed wheel has none: run it from a checkout (`make setup`)"
        )
    return folder


def make_flows_importable() -> None:
    """Let ``import flows`` find the project's flows, tasks and blocks from any working directory."""
    folder = str(project_directory())
    if folder not in sys.path:
        sys.path.insert(0, folder)
