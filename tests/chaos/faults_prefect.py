"""A Prefect server that can be stopped, killed and started again at the same place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from faults import PROJECT

from resonant.local.health import is_healthy
from resonant.local.server import free_port, shipped_settings
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class OwnPrefect:
    """A server with the shipped settings and a home of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    @property
    def is_healthy(self) -> bool:
        return is_healthy(self.api_url)

    def start(self) -> None:
        environment = (
            os.environ
            | shipped_settings()
            | {
                "PREFECT_HOME": str(self._home),
                "PREFECT_API_URL": self.api_url,
                "PREFECT_SERVER_UI_ENABLED": "false",
            }
        )
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port)]
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=PROJECT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self.is_healthy, 90)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process.poll() is None:
            self.send(signal.SIGKILL)
            self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it answer nothing during the block, while its port still takes connections."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Let it be gone during the block."""
        self.kill()
        try:
            yield
        finally:
            self.start()


@contextmanager
def own_prefect(home: Path) -> Iterator[OwnPrefect]:
    server = OwnPrefect(home)
    server.start()
    try:
        yield server
    finally:
        server.kill()
