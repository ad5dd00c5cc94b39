"""Builds wheels and sdists from tracked files only: an untracked file may hold a secret."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SPECIAL = re.compile(r"([\\*?\[\]! #])")


class TrackedFiles(BuildHookInterface[Any]):
    """Excludes untracked files, and adds ``prefect.yaml`` to the wheel, next to the flows."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Set the included and excluded files; see ``BuildHookInterface``."""
        if version == "editable":
            return
        if self.target_name == "wheel":
            # Not in pyproject.toml, which would put it into site-packages for an editable install too.
            build_data["force_include"]["prefect.yaml"] = "resonant/_project/prefect.yaml"
        exclude = self.build_config.target_config.setdefault("exclude", [])
        exclude += ["/" + _SPECIAL.sub(r"\\\1", name) for name in self._untracked()]

    def _untracked(self) -> list[str]:
        if not (Path(self.root) / ".git").exists():  # an unpacked sdist
            return []
        # Another user may own the checkout, as in a container; a build runs its code anyway.
        command = ["git", "-c", "safe.directory=*", "ls-files", "--others", "--directory", "-z"]
        listed = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)  # noqa: S603 - a fixed command
        return listed.stdout.split("\0")[:-1]
