"""Waiting for what another process does: for as long as a loaded machine may need, and no longer than it takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE_SECONDS = 60.0


def wait_until(condition: Callable[[], T], seconds: float = PATIENCE_SECONDS, *, every: float = 0.05) -> T:
    """Ask again and again until there is something, and return it.

    Raises:
        AssertionError: there was nothing within these seconds.
    """
    give_up_at = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up_at, f"what was waited for did not happen within {seconds:g} s"
        time.sleep(every)
    return found
