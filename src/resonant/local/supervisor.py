"""Processes that end, with all their descendants, when the process that started them ends, even if it is killed.

``python -m resonant.local.supervisor SECONDS COMMAND ...`` runs the command until its own standard input ends: the kernel
closes that pipe when the process at the other end exits for any reason. Then the command has SECONDS to end.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import IO, NoReturn

import psutil

from resonant.local.project import project_directory

STOP_SECONDS = 10.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05
_BY_SIGNAL = 128
_PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>


def keep(
    command: list[str],
    environment: dict[str, str],
    log: IO[bytes],
    *,
    patience: float = STOP_SECONDS,
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
    try:
        if supervisor.stdin is not None:
            supervisor.stdin.close()
        supervisor.wait()
    except KeyboardInterrupt:
        kill(supervisor)
        raise


def kill(supervisor: subprocess.Popen[bytes]) -> None:
    """Kill a process started by ``keep`` and its descendants."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(supervisor.pid)
        process.suspend()  # otherwise it could start the command after the look
        children = process.children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        if children:
            process.resume()  # it ends what the look has missed
        else:
            process.kill()


def main(patience: float, command: list[str]) -> int:
    """Run the command; return its exit code, or 128 plus the number of the signal that ended it.

    Args:
        patience: seconds that the command has to end cleanly.
        command: the program and its arguments.
    """
    _adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own caller
    threading.Thread(target=_exit_with_standard_input, daemon=True).start()
    try:
        code = child.wait()
        return code if code >= 0 else _BY_SIGNAL - code
    finally:
        stop(patience)


def stop(patience: float) -> None:
    """End the command's processes, in any session: first with SIGTERM, then with SIGKILL."""
    for kind, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _KILL_SECONDS)):
        signalled: set[psutil.Process] = set()
        give_up_at = time.monotonic() + seconds
        while (living := _living()) and time.monotonic() < give_up_at:
            for process in living - signalled:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(kind)
            signalled |= living
            time.sleep(_POLL_SECONDS)


def _living() -> set[psutil.Process]:
    living = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.add(process)
    return living


def _adopt_orphans() -> None:
    """Become the parent of processes that a killed child leaves behind; Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _exit_with_standard_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # ignore further signals: the cleanup must not be interrupted
    sys.exit(_BY_SIGNAL + number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
