"""The lanes of an emission: what makes each, as parameters of ``emit_events``."""

from __future__ import annotations

from typing import Any, Literal

from resonant.dispatch.limiter import ConcurrencyLimiter

Lane = Literal["task", "bulk"]
LANES: dict[Lane, dict[str, Any]] = {"task": {}, "bulk": {"chunk_size": 500}}


def task_runs_in_flight(concurrency: int, endpoint_concurrency: int) -> int:
    """Return how many task runs the task lane has in flight, to one endpoint: as many as its emission claims ahead.

    Args:
        concurrency: sends at the same time, in all.
        endpoint_concurrency: and to the endpoint.
    """
    return 4 * ConcurrencyLimiter(concurrency, endpoint_concurrency).share("the only endpoint")
