"""A process that was hit, and the effects that its end may have."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from chaos_plan import Victim


def said_in(progress: Path) -> list[dict]:
    """Return the complete lines of a process that may have been killed."""
    if not progress.exists():
        return []
    lines = progress.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Unexpected(AssertionError):
    """Something that no kill explains."""


@dataclass
class Struck:
    """A victim's process, and the effects that its end may have.

    Attributes:
        owner: its name in its leases and in the audit.
        in_flight: the events that it was sending when it was hit; if it was stopped, also those it still held afterwards.
        begun: how many deliveries it had begun when it was hit.
        came_too_late: whether it had ended before the signal.
        is_exact: whether it ended at the signal: it is then charged with exactly the sends in flight.
        tolerated: the number of sends that it may have begun after it was hit, while it shut down.
        is_cut_off: whether PostgreSQL ended its session, because it was stopped within a transaction.
        ended_at: when its end was noticed.
    """

    victim: Victim
    owner: str
    process: subprocess.Popen[bytes]
    progress: Path
    errors: Path
    in_flight: set[str] = field(default_factory=set)
    begun: int = 0
    came_too_late: bool = False
    is_exact: bool = False
    tolerated: int = 0
    is_cut_off: bool = False
    ended_at: float = 0.0

    @property
    def said(self) -> list[dict]:
        return said_in(self.progress)

    def as_dict(self) -> dict[str, object]:
        return {
            "kind": self.victim.kind,
            "signal": self.victim.signal,
            "delay": round(self.victim.delay, 3),
            "in_flight": len(self.in_flight),
            "came_too_late": self.came_too_late,
        }
