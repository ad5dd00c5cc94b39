"""The limits of a run."""

from dataclasses import dataclass
from typing import Literal

# A run waits for its own retries that are due within this time, in seconds, even if they are parked. In this time before its
# end, a bounded run parks retries, since waiting for them would delay the next run.
WAIT_SECONDS = 30.0

Lane = Literal["auto", "task", "bulk"]
# The limits that each lane sets. Larger chunks are hardly faster. In the lane auto, single task runs may take half of a core: each
# costs 5 ms of CPU in the run, and as much in Prefect's server.
LANES: dict[Lane, dict[str, int]] = {
    "auto": {"chunk_size": 500, "alone": 100},
    "task": {},
    "bulk": {"chunk_size": 500},
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one run.

    Attributes:
        concurrency: concurrent sends; half of them are for endpoints whose sends are short (see ``limiter``).
        endpoint_concurrency: concurrent sends to one endpoint; at most half of ``concurrency``.
        max_waiting: retries of single deliveries that may wait in this process; further retries are parked, like those of
            chunks.
        run_for: seconds for which the run sends due deliveries; 0 ends the run when nothing is due.
        successors: the run ends WAIT_SECONDS after this many younger drains are alive; 0 for no such limit.
        chunk_size: the most deliveries per chunk; 0 sends each delivery alone.
        alone: with chunks, the most deliveries per second that are sent alone.
    """

    concurrency: int = 400
    endpoint_concurrency: int = 50
    max_waiting: int = 1_000
    run_for: float = 0.0
    chunk_size: int = 0
    alone: int = 0
    successors: int = 0
