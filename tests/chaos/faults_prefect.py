"""A Prefect server that can be stopped, killed and started again at the same place."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from resonant.local.server import api_url_at, free_port
from resonant.local.supervisor import kill
from support.prefect import running_server
from support.processes import family


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
