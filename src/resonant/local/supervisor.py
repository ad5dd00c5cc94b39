"""Keeps a process, and all that it starts, no longer than the process that asked for it, even if that one is killed.

``python -m resonant.local.supervisor SECONDS COMMAND ...`` runs the command until its own standard input ends: the kernel
closes that pipe when its other end's process is gone, whatever ended it. Then the command has that many seconds to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import psutil

if TYPE_CHECKING:
    from types import FrameType

_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05
_BY_SIGNAL = 128
_PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>


def main(patience: float, command: list[str]) -> int:
    """Run the command; return its exit code, which is 128 and the signal's number if one ended it.

    Args:
        patience: seconds that it gets to end in good order.
        command: the program and its arguments.
    """
    _adopt_orphans()
    signal.signal(signal.SIGTERM, _exit)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own caller
    threading.Thread(target=_exit_with_standard_input, daemon=True).start()
    try:
        code = child.wait()
        return code if code >= 0 else _BY_SIGNAL - code
    finally:
        stop(patience)


def stop(patience: float) -> None:
    """End whatever came of the command, in any session: politely, then for good."""
    for kind, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _KILL_SECONDS)):
        told: set[psutil.Process] = set()
        give_up_at = time.monotonic() + seconds
        while (living := _living()) and time.monotonic() < give_up_at:
            for process in living - told:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(kind)
            told |= living
            time.sleep(_POLL_SECONDS)


def _living() -> set[psutil.Process]:
    living = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.add(process)
    return living


def _adopt_orphans() -> None:
    """Become the parent of what a killed child leaves behind; only Linux can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _exit_with_standard_input() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once is enough: ending the others must not be interrupted
    sys.exit(_BY_SIGNAL + number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
