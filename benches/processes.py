"""Processes with their descendants: starting, stopping and measuring them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self, TypeVar, cast

import psutil

from resonant.local.supervisor import end, keep

_T = TypeVar("_T")
_END_SECONDS = 5.0
_SAMPLE_SECONDS = 0.2
_BETWEEN_STOPS_SECONDS = 0.02
_QUIET_CORES = 0.15


@contextlib.contextmanager
def kept(command: list[str], *, log: Path, variables: Mapping[str, str] = {}) -> Iterator[int]:
    """Run a command until the end of the block or of this process; yield its process id.

    Args:
        command: the program and its arguments.
        log: file for its output.
        variables: environment variables, in addition to this process's.
    """
    with log.open("ab") as file:
        supervisor = keep(command, os.environ | dict(variables), file, patience=_END_SECONDS)
    try:
        yield child_of(supervisor)
    finally:
        end(supervisor)


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module."""
    return [sys.executable, "-m", module, *arguments]


def child_of(supervisor: subprocess.Popen[bytes]) -> int:
    """Wait for the process that a supervisor runs, and return its id."""
    while not (children := psutil.Process(supervisor.pid).children()):
        if supervisor.poll() is not None:
            raise RuntimeError("a process ended at once")
        time.sleep(0.01)
    return children[0].pid


@contextlib.contextmanager
def piped(
    command: list[str], *, log: Path, variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that ends when its standard input does; the caller reads its output.

    Args:
        command: the program and its arguments.
        log: file for its standard error.
        variables: environment variables, in addition to this process's.
    """
    with (
        log.open("ab") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env=os.environ | dict(variables),
            bufsize=0,
        ) as process,
    ):
        try:
            yield process
        finally:
            cast("IO[bytes]", process.stdin).close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


class Tree:
    """Some processes and their descendants.

    Args:
        roots: the processes' ids.
    """

    def __init__(self, roots: Iterable[int]) -> None:
        self._roots = [psutil.Process(root) for root in roots]

    def cpu_seconds(self) -> float:
        """Return their CPU seconds so far, including descendants that have ended and were waited for."""
        return sum(sum(times[:4]) for each in self._all() if (times := _of(each.cpu_times)))

    def resident_megabytes(self) -> float:
        """Return their current memory; shared memory counts in each process."""
        return sum(memory.rss for each in self._all() if (memory := _of(each.memory_info))) / 1e6

    @contextlib.contextmanager
    def stopped(self, is_free: Callable[[], bool]) -> Iterator[None]:
        """Stop all of them during the block.

        Args:
            is_free: returns whether they hold no lock; if they hold one, they are stopped later.
        """
        processes = self._all()
        _signal(processes, signal.SIGSTOP)
        try:
            while not is_free():
                _signal(processes, signal.SIGCONT)
                time.sleep(_BETWEEN_STOPS_SECONDS)
                _signal(processes, signal.SIGSTOP)
            yield
        finally:
            _signal(processes, signal.SIGCONT)

    def _all(self) -> list[psutil.Process]:
        found = []
        for root in self._roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [root, *root.children(recursive=True)]
        return found


def _of(look: Callable[[], _T]) -> _T | None:
    """Return a measurement of a process; None if the process has ended."""
    try:
        return look()
    except psutil.NoSuchProcess:
        return None


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(number)


def wait_until_quiet(trees: Sequence[Tree], seconds: float, *, look_seconds: float = 1.0) -> None:
    """Wait until these processes are nearly idle, or the time limit has passed.

    Args:
        trees: the processes.
        seconds: the time limit.
        look_seconds: how long they must be idle; CPU times have a resolution of a hundredth of a second.
    """
    give_up_at = time.monotonic() + seconds
    cores = _QUIET_CORES
    while cores >= _QUIET_CORES and time.monotonic() < give_up_at:
        before = sum(tree.cpu_seconds() for tree in trees)
        time.sleep(look_seconds)
        cores = (sum(tree.cpu_seconds() for tree in trees) - before) / look_seconds


class PeakMemory:
    """The peak resident memory of a tree within the block, sampled five times a second.

    Attributes:
        megabytes: known after the block.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.megabytes = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.megabytes = max(self.megabytes, self._tree.resident_megabytes())
            if self._done.wait(_SAMPLE_SECONDS):
                return
