"""The lanes that the benches measure."""

import time
from typing import Literal

from resonant.dispatch.limiting.limiter import ConcurrencyLimiter

Lane = Literal["auto", "task", "bulk"]
LANES: tuple[Lane, ...] = ("task", "bulk")


def task_runs_in_flight(concurrency: int, endpoint_concurrency: int) -> int:
    """Return the number of task runs in flight to one endpoint in the task lane: its emission claims that many ahead.

    Args:
        concurrency: concurrent sends in total.
        endpoint_concurrency: concurrent sends to the endpoint.
    """
    limiter = ConcurrencyLimiter(
        concurrency, endpoint_concurrency, has_others=lambda _slots: False, clock=time.monotonic
    )
    slots = limiter.slots()
    limiter.note_send(slots, 0.0)
    return 4 * limiter.share(slots)
