"""Single attempts at endpoints of blocks, as a drain makes them."""

import random
from typing import Any

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.outcome import Outcome
from resonant.events import Attempt, Event, Lease


async def outcome_of(destination: Destination, given: Event, *, clock=lambda: 0.0, **lease: Any) -> Outcome:
    """Make one attempt; return its outcome."""
    leased = {"round_started_at": clock(), "accepted_at": clock()} | lease
    made = Lease(0, 0, "test", given, destination.name, **leased)
    return await AttemptRunner(clock=clock, rng=random.Random(1)).attempt(made, destination)


async def attempt(block: Any, given: Event, name: str, *, destination: Destination | None = None) -> Attempt:
    """Make one attempt at a block's endpoint, or at this open one."""
    opened = destination or block.open(name)
    try:
        return (await outcome_of(opened, given)).attempt
    finally:
        if destination is None:
            await opened.close()


def verdict(made: Attempt) -> str:
    """Write a failure as ``CATEGORY CODE [local] [sent] [SECONDS]``."""
    flags = [
        made.blame == "local" and "local",
        made.maybe_processed and "sent",
        made.retry_after and f"{made.retry_after:g}",
    ]
    return " ".join([made.category, made.code, *filter(None, flags)])
