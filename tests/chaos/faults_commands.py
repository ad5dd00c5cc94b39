"""Commands of a user with a home and a store of their own."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from faults import ENDPOINT, POLICY

from support import machine

if TYPE_CHECKING:
    from pathlib import Path


class Machine(machine.Machine):
    """A home in which commands use the faults' policy on this store.

    Attributes:
        store_url: the store's URL; a test may change it.
    """

    def __init__(
        self, home: Path, store_url: str, prefect_api: str = "", variables: dict[str, str] | None = None
    ) -> None:
        policy = {
            "RESONANT_POLICIES": json.dumps({"faults": asdict(POLICY)}),
            "RESONANT_DEFAULT_POLICY": "faults",
        }
        super().__init__(home, prefect_api, policy | (variables or {}))
        self.store_url = store_url

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"RESONANT_DATABASE_URL": self.store_url}

    def add_endpoint(self, url: str, *options: str) -> None:
        self.succeed("endpoint", "add", ENDPOINT, url, "--allow-private", "--overwrite", *options)
