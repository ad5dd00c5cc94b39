"""The HTTP intake of ``resonant up``: ``resonant serve`` as one of its parts."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from resonant.local.health import is_healthy
from resonant.local.parts import Part

_LOG = "serve.log"
_START_SECONDS = 60.0


class Intake(Part):
    """The intake on loopback. When it is ended, it first answers the requests that it has received.

    Args:
        home: the folder of its log.
        variables: its environment variables, in addition to those of this process, except Prefect's.
        port: its port.
        sources: the file of its sources of webhooks.
    """

    def __init__(
        self, home: Path, variables: Mapping[str, str], port: int, sources: Path | None = None
    ) -> None:
        self._url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "resonant", "serve", "--port", str(port)]
        if sources is not None:
            command += ["--sources", str(sources.absolute())]
        # It needs only the store: it must not get the password of Prefect's server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        super().__init__(
            "HTTP intake", home / _LOG, command, environment | dict(variables), start_seconds=_START_SECONDS
        )

    def is_ready(self) -> bool:
        """Return whether it answers."""
        return is_healthy(self._url, "healthz")
