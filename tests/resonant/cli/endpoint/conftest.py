"""``resonant endpoint`` on a real Prefect server, in the process of the test."""

from typing import Any

import pytest


class EndpointCommands:
    """Runs the commands of the group ``endpoint``."""

    def __init__(self, resonant) -> None:
        self._resonant = resonant

    def __call__(self, *argv: str, **options: Any):
        return self._resonant.on_prefect("endpoint", *argv, **options)

    def json(self, *argv: str) -> Any:
        return self._resonant.json_on_prefect("endpoint", *argv)

    def tested(self, name: str, *argv: str) -> Any:
        """Send a test event to an endpoint on Prefect, again while its server's SQLite is busy; it must arrive."""
        while (answer := self("test", name, *argv, code=None)).code and "503" in answer.out:
            pass
        assert answer.code == 0, answer
        return answer

    def show(self, name: str) -> dict[str, Any]:
        return self.json("show", name)

    def listed(self) -> dict[str, dict[str, Any]]:
        """Return the documents of the list, by name."""
        return {row["name"]: row for row in self.json("list")}


@pytest.fixture
def endpoint(resonant, on_server):
    return EndpointCommands(resonant)
