"""Processes and their descendants."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

T = TypeVar("T")


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the settings of Resonant and Prefect."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("RESONANT_", "PREFECT_"))
    }


def family(process: subprocess.Popen | psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    me = psutil.Process(process.pid)
    return [me, *me.children(recursive=True)]


def look_at(processes: Iterable[psutil.Process], look: Callable[[psutil.Process], T]) -> list[T]:
    """Look at each process, and return the results; leave out processes that have ended."""
    found = []
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(look(each))
    return found


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that are still running."""
    return [each for each in processes if _runs(each)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two calls
        return False
