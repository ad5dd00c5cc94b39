"""A Prefect server that can be stopped, killed and started again at the same place, and processes that are kept running."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from resonant.local.server import api_url_at
from resonant.local.supervisor import kill
from support.ports import free_port
from support.prefect import running_server
from support.processes import family

DRAIN = "import asyncio; from flows.emit import emit_events; asyncio.run(emit_events(successors=2))"


class OwnPrefect:
    """A server with a home of its own, and further settings."""

    def __init__(self, home: Path, **variables: str) -> None:
        self._home = home
        self._variables = variables
        self._port = free_port()
        self._running = ExitStack()
        self.api_url = api_url_at(self._port)

    def start(self) -> None:
        _, server = self._running.enter_context(
            running_server(self._home, port=self._port, **self._variables)
        )
        self._supervisor = server.supervisor

    def kill(self) -> None:
        if self._supervisor.poll() is None:
            kill(self._supervisor)
        self._running.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it answer nothing during the block, while its port still takes connections."""
        _, *processes = family(self._supervisor)
        for each in processes:
            each.suspend()
        try:
            yield
        finally:
            for each in processes:
                each.resume()

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Let it be gone during the block."""
        self.kill()
        try:
            yield
        finally:
            self.start()


@contextmanager
def own_prefect(home: Path, **variables: str) -> Iterator[OwnPrefect]:
    server = OwnPrefect(home, **variables)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Kept:
    """A process that is started again whenever it ends, as a service manager does."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self._command, self._options = command, options
        self._is_over = threading.Event()
        self._start()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._is_over.set()
        while self._keeper.is_alive():
            self.kill()
            self._keeper.join(0.1)

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, **self._options)

    def _keep(self) -> None:
        while self._process.wait() is not None and not self._is_over.is_set():
            self._start()
