"""Names processes, so that the leases of a killed process can be taken before they expire."""

import os
import socket
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_ENDED_STATES = ("Z", "X")


def this_process() -> str | None:
    """Return the unique name of this process, which is never used again; None if the system cannot provide one.

    It consists of the machine's boot, the container's namespaces and host name, the process id and the time of its start.
    """
    with suppress(OSError):
        machine, (_, started_at) = _machine(), _state(os.getpid())
        return f"{machine} {os.getpid()} {started_at}"
    return None


def has_ended(process: str) -> bool:
    """Return whether a process has certainly ended; False for one that is not visible from this machine or container."""
    machine, pid, started_at = process.rsplit(" ", 2)
    try:
        if machine != _machine():
            return False
    except OSError:
        return False
    try:
        os.kill(int(pid), 0)  # finds processes that /proc hides, too
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    except OSError:
        return False
    try:
        state, found = _state(int(pid))
    except OSError:
        return False  # hidden, or just ended: the next look decides
    return found != started_at or state in _ENDED_STATES


def _machine() -> str:
    """Return the machine's boot, namespaces and host name, within which process ids and start times are unique.

    Raises:
        OSError: they cannot be determined.
    """
    if str((_PROC / "self").readlink()) != str(os.getpid()):
        raise ProcessLookupError(f"{_PROC} shows the processes of another namespace")
    boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    # A time namespace has its own time since the boot; kernels before 5.6 have none.
    namespaces = [_PROC / "self/ns/pid", _PROC / "self/ns/time"]
    return " ".join(
        [boot_id, *(str(each.readlink()) for each in namespaces if each.exists()), socket.gethostname()]
    )


def _state(pid: int) -> tuple[str, str]:
    """Return the state of a process, and the time of its start, in clock ticks since the boot."""
    # The name of the program, in parentheses, may contain spaces and parentheses.
    fields = (_PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
