"""Names processes, so that the leases of a killed one need not wait for their end."""

import os
from contextlib import suppress
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESS_NAMESPACE = Path("/proc/self/ns/pid")
_ENDED_STATES = ("Z", "X")


def this_process() -> str | None:
    """Return the name of this process, which no other process ever has; None on other systems than Linux.

    It consists of the machine's boot, the container's process namespace, the process id and the time of its start.
    """
    with suppress(OSError):
        _, started_at = _state(os.getpid())
        return f"{_machine()} {os.getpid()} {started_at}"
    return None


def has_ended(process: str) -> bool:
    """Return whether a process has ended for sure; False for a process of another machine or container."""
    machine, pid, started_at = process.rsplit(" ", 2)
    try:
        if machine != _machine():
            return False
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
        return False  # hidden, or it has ended just now: the next look decides
    return found != started_at or state in _ENDED_STATES


def _machine() -> str:
    return f"{_BOOT_ID.read_text().strip()} {_PROCESS_NAMESPACE.readlink()}"


def _state(pid: int) -> tuple[str, str]:
    """Return the state of a process, and the time of its start, in clock ticks since the boot."""
    # The name of the program, in parentheses, may contain spaces and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
