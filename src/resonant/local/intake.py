"""The HTTP intake of ``resonant up``: ``resonant serve`` as one of its parts."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from resonant import output
from resonant.errors import ServerError
from resonant.files import open_private
from resonant.local.health import is_healthy
from resonant.local.server import Part
from resonant.local.supervisor import end, keep

_LOG = "serve.log"
_START_SECONDS = 60.0
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def kept_intake(home: Path, variables: Mapping[str, str], port: int) -> Iterator[Part]:
    """Run the intake on loopback during the block. Then it answers the requests that it has received.

    Args:
        home: the folder of its log.
        variables: its environment variables, in addition to those of this process.
        port: its port.

    Raises:
        ServerError: it does not start; the message contains the path of its log.
    """
    path = home / _LOG
    command = [sys.executable, "-m", "resonant", "serve", "--port", str(port)]
    with open_private(path, "ab") as log:
        supervisor = keep(command, {**os.environ, **variables}, log)
        part = Part("HTTP intake", supervisor, path)
        try:
            _wait_until_healthy(part, port)
            yield part
        finally:
            output.say("stopping: the HTTP intake")
            end(supervisor)


def _wait_until_healthy(part: Part, port: int) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while not is_healthy(f"http://127.0.0.1:{port}", "healthz"):
        if part.supervisor.poll() is not None or time.monotonic() > give_up_at:
            raise ServerError(f"the {part.name} did not start: see {part.log}")
        time.sleep(_POLL_SECONDS)
