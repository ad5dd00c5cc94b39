"""Processes that end when this one does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import IO

from resonant.local.project import project_directory

_STOP_SECONDS = 10.0


def keep(
    command: list[str],
    environment: dict[str, str],
    log: IO[bytes],
    *,
    patience: float = _STOP_SECONDS,
) -> subprocess.Popen[bytes]:
    """Start a process that ends when this one does; ``end`` ends it earlier.

    Args:
        command: the program and its arguments.
        environment: its variables.
        log: receives its output.
        patience: seconds that the process has to end cleanly.
    """
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "resonant.local.supervisor", str(patience), *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        cwd=project_directory(),
        start_new_session=True,  # Ctrl-C is for this process: the server must outlive the runs that report to it
    )


def end(supervisor: subprocess.Popen[bytes]) -> None:
    """End a process started by ``keep``, and wait for it; Ctrl-C kills it at once."""
    if supervisor.stdin is not None:
        supervisor.stdin.close()
    try:
        supervisor.wait()
    except KeyboardInterrupt:
        kill(supervisor)
        raise


def kill(supervisor: subprocess.Popen[bytes]) -> None:
    """Kill a process started by ``keep`` and its descendants."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(supervisor.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
