"""A process that was hit, and what its end may have left."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from chaos_plan import Victim


class Unexpected(AssertionError):
    """Something that no kill explains."""


@dataclass
class Struck:
    """A victim's process, and what its end may have left.

    Attributes:
        owner: of its leases, and in the audit.
        in_flight: events that it was sending when it was hit; of a stopped one also what it still held when it woke.
        begun: how many deliveries it had begun when it was hit.
        came_too_late: whether it had ended before the signal.
        is_exact: whether it ended at the signal: what was in flight then, and nothing else, is charged to it.
        tolerated: sends that it may have begun after it was hit, while it ended in good order.
        is_cut_off: whether PostgreSQL ended its session, which it left stopped in a transaction.
        ended_at: when its end was seen.
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
        """Its lines, as far as they are whole."""
        if not self.progress.exists():
            return []
        lines = self.progress.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def as_dict(self) -> dict[str, object]:
        return {
            "kind": self.victim.kind,
            "signal": self.victim.signal,
            "delay": round(self.victim.delay, 3),
            "in_flight": len(self.in_flight),
            "came_too_late": self.came_too_late,
        }
