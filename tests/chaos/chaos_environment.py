"""The environment of the commands that are tried."""

from __future__ import annotations

import os


def clean_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with these variables, and without what else is set for Resonant or Prefect."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RESONANT_", "PREFECT_"))
    }
    return kept | variables
