"""Processes and their descendants."""

import os
import subprocess
from collections.abc import Iterable

import psutil


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the settings of Resonant and Prefect."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("RESONANT_", "PREFECT_"))
    }


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    me = psutil.Process(process.pid)
    return [me, *me.children(recursive=True)]


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that are still running."""
    return [each for each in processes if _runs(each)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two calls
        return False
