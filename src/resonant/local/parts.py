"""Runs the processes of ``resonant up``, and restarts those that end, after growing pauses."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from resonant import output
from resonant.errors import ResonantError, ServerError
from resonant.files import open_private, shorten_log
from resonant.local.supervisor import STOP_SECONDS, end, keep, kill

# The pauses after failures to start. They are long enough to outlast two minutes of a full disk, and short enough that a server
# that hangs at each start fails five times within the time.
FAILURE_PAUSES = (5.0, 15.0, 45.0, 90.0)
# If a part fails to start this often within this time, `resonant up` gives up.
MOST_FAILURES, WITHIN_SECONDS = len(FAILURE_PAUSES) + 1, 600.0
LONGEST_PAUSE = 30.0
POLL_SECONDS = 0.5
# While Prefect's disk is full, its server writes 150 KB of tracebacks a second.
MOST_LOG_BYTES, KEPT_LOG_BYTES = 16_000_000, 4_000_000
_OWN = "resonant: "


class Part:
    """A process that Resonant runs and restarts.

    Args:
        name: its name in messages.
        log: the file with its output.
        command: the program and its arguments.
        environment: its variables.
        start_seconds: how long it may take until it is ready.
        patience: how long it may take to end cleanly, in seconds.
    """

    supervisor: subprocess.Popen[bytes]

    def __init__(
        self,
        name: str,
        log: Path,
        command: list[str],
        environment: dict[str, str],
        *,
        start_seconds: float,
        patience: float = STOP_SECONDS,
    ) -> None:
        self.name = name
        self.log = log
        self.start_seconds = start_seconds
        self._command = command
        self._environment = environment
        self._patience = patience

    def start(self) -> bool:
        """Start it; return False if it has to wait for another part or process.

        Raises:
            ResonantError: it cannot be started.
        """
        shorten_log(self.log, most_bytes=MOST_LOG_BYTES, kept_bytes=KEPT_LOG_BYTES)
        with open_private(self.log, "ab") as log:
            self.supervisor = keep(self._command, self._environment, log, patience=self._patience)
        return True

    def is_ready(self) -> bool:
        """Return whether it works. Call it after ``start``."""
        return True

    def problem(self) -> str | None:
        """Return why it has ended, or None if it runs: the last line of its log, if that is an error of Resonant."""
        if (code := self.supervisor.poll()) is None:
            return None
        with contextlib.suppress(OSError):  # the log may have been deleted
            last = self.log.read_text(errors="replace").rstrip().rpartition("\n")[2]
            if last.startswith(_OWN):
                return last.removeprefix(_OWN)
        return f"the {self.name} ended (exit code {code}): see {self.log}"

    def end(self) -> None:
        """End it, if it runs."""
        if hasattr(self, "supervisor"):
            end(self.supervisor)

    def kill(self) -> None:
        """Kill it, if it runs."""
        if hasattr(self, "supervisor"):
            kill(self.supervisor)


class Restarts:
    """Decides when to restart a part that ended."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, bool]] = []

    def pause(self, now: float, *, failed: bool) -> float | None:
        """Return the seconds until its next start; None to give up.

        Args:
            now: the time of its end, in seconds, by a monotonic clock.
            failed: whether it was never ready after its start.
        """
        self._ends = [end for end in self._ends if end[0] > now - WITHIN_SECONDS] + [(now, failed)]
        alike = sum(was_failure == failed for _, was_failure in self._ends)
        if not failed:
            return min(LONGEST_PAUSE, 2.0 ** (alike - 1))
        return FAILURE_PAUSES[alike - 1] if alike < MOST_FAILURES else None


class _Kept:
    """A part, its state, and its restarts."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.restarts = Restarts()
        self.is_ready = False
        self.starts_again = False
        self._starts_at: float | None = 0.0
        self._ready_by = 0.0

    def look(self, now: float) -> str | None:
        """Start the part if it is due, and check whether it is ready; return the problem if it ended or cannot start."""
        if self._starts_at is None:
            problem = self.part.problem()
            if problem is None and not self.is_ready:
                self.is_ready = self.part.is_ready()
                if not self.is_ready and now > self._ready_by:
                    problem = (
                        f"the {self.part.name} did not start within {self.part.start_seconds:.0f} s: "
                        f"see {self.part.log}"
                    )
            return problem
        if now >= self._starts_at:
            try:
                if self.part.start():
                    self._starts_at, self._ready_by = None, now + self.part.start_seconds
            except (ResonantError, OSError) as error:
                return f"the {self.part.name} cannot start: {error}"
        return None

    @property
    def is_started(self) -> bool:
        """Whether it was started, and has not been seen to end."""
        return self._starts_at is None

    def start_at(self, time: float) -> None:
        """End the part, if it runs, and schedule its next start at this time."""
        self.part.end()
        self.is_ready = False
        self.starts_again = True
        self._starts_at = time


class Parts:
    """Starts parts, restarts those that end, and stops all at the end.

    Args:
        clock: a monotonic clock, in seconds.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._kept: list[_Kept] = []

    def __iter__(self) -> Iterator[Part]:
        return (kept.part for kept in self._kept)

    def start(self, part: Part) -> None:
        """Start a part. Then call ``wait``.

        Raises:
            ResonantError: it cannot start, or another part ended.
        """
        self._kept.append(kept := _Kept(part))
        self._look_until(kept, lambda: kept.is_started)

    def wait(self, part: Part) -> None:
        """Wait until a started part is ready; raises what ``start`` raises."""
        [kept] = (each for each in self._kept if each.part is part)
        self._look_until(kept, lambda: kept.is_ready)

    def _look_until(self, kept: _Kept, condition: Callable[[], bool]) -> None:
        while not condition():
            self.check()
            if problem := kept.look(self._clock()):
                raise ServerError(problem)
            if not condition():
                self._sleep(POLL_SECONDS / 2)

    def check(self) -> None:
        """Check that the parts that were ready still run.

        Raises:
            ServerError: one ended.
        """
        for kept in self._kept:
            if kept.is_ready and (problem := kept.part.problem()):
                raise ServerError(problem)

    def runs(self, part: Part) -> bool:
        """Return whether this part was ready at the last look."""
        return any(kept.is_ready for kept in self._kept if kept.part is part)

    def look(self) -> None:
        """Check each part once: restart it if it ended and its pause is over, and shorten its log if it is large.

        Raises:
            ServerError: one failed to start too often.
        """
        for kept in self._kept:
            shorten_log(kept.part.log, most_bytes=MOST_LOG_BYTES, kept_bytes=KEPT_LOG_BYTES)
            was_ready = kept.is_ready
            problem = kept.look(self._clock())
            if problem is None:
                if kept.is_ready and not was_ready and kept.starts_again:
                    output.say(f"the {kept.part.name} runs again")
                continue
            pause = kept.restarts.pause(self._clock(), failed=not was_ready)
            if pause is None:
                raise ServerError(
                    f"{problem}; it failed to start {MOST_FAILURES} times in {WITHIN_SECONDS / 60:.0f} minutes"
                )
            output.say(f"{problem}: starting it again in {pause:.0f} s")
            kept.start_at(self._clock() + pause)

    def end(self) -> None:
        """End all parts, the last one first; Ctrl-C kills them at once."""
        try:
            for kept in reversed(self._kept):
                kept.part.end()
        except KeyboardInterrupt:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill all parts."""
        for part in self:
            part.kill()


@contextlib.contextmanager
def kept_parts() -> Iterator[Parts]:
    """Provide ``Parts``, and end them at the end of the block."""
    parts = Parts()
    try:
        yield parts
    finally:
        parts.end()
