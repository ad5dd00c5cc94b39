"""Commands of a user with a home and a store of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from chaos_environment import clean_environment
from faults import ENDPOINT, POLICY

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Machine:
    """A home, in which commands run.

    Attributes:
        prefect_api: of the server to use; empty where a command needs none.
        variables: more of the environment.
    """

    home: Path
    store_url: str
    prefect_api: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        variables = {
            "HOME": str(self.home),
            "RESONANT_HOME": str(self.home / "resonant"),
            "RESONANT_DATABASE_URL": self.store_url,
            "RESONANT_POLICIES": json.dumps({"faults": asdict(POLICY)}),
            "RESONANT_DEFAULT_POLICY": "faults",
            "PREFECT_HOME": str(self.home / "prefect"),
            **({"PREFECT_API_URL": self.prefect_api} if self.prefect_api else {}),
            **self.variables,
        }
        return clean_environment(**variables)

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "resonant", *arguments],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def run(self, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
        return finished(self.start(*arguments, **options))

    def add_endpoint(self, url: str, *options: str) -> None:
        added = self.run("endpoint", "add", ENDPOINT, url, "--allow-private", "--overwrite", *options)
        assert added.returncode == 0, added.stderr


def finished(process: subprocess.Popen[str], patience: float = 120) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a command."""
    said, errors = process.communicate(timeout=patience)
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)
