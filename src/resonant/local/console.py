"""The console of ``resonant up``: ``resonant console`` as one of its parts."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from resonant import output
from resonant.local.health import is_healthy
from resonant.local.parts import Part
from resonant.local.server import free_port, is_free

PORT = 4201
_LOG = "console.log"
_START_SECONDS = 60.0


class ConsolePart(Part):
    """The console on loopback. It requires the password of Prefect's server, if that has one.

    Args:
        home: the folder of its log.
        variables: its environment variables, in addition to those of this process.
        port: its port; by default 4201, or a free one if that is taken.
    """

    def __init__(self, home: Path, variables: Mapping[str, str], port: int | None) -> None:
        if port is None and not is_free(port := PORT):
            port = free_port()
            output.say(f"port {PORT} is in use: the console listens on port {port}")
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "resonant", "console", "--port", str(port)]
        environment = os.environ | dict(variables)
        super().__init__("console", home / _LOG, command, environment, start_seconds=_START_SECONDS)

    def is_ready(self) -> bool:
        """Return whether it answers."""
        return is_healthy(self.url, "static/console.css")
