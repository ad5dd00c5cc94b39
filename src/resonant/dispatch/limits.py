"""The limits of a run."""

from __future__ import annotations

from dataclasses import dataclass

# A run waits for its own retries that are due within this time, in seconds, even if they are parked. In this time before its
# end, a bounded run parks retries, since waiting for them would delay the next run.
WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one run.

    Attributes:
        concurrency: concurrent sends; half of them are for endpoints whose sends are short (see ``limiter``).
        endpoint_concurrency: concurrent sends to one endpoint; at most half of ``concurrency``.
        max_waiting: in the task lane, retries that may wait in this process; further retries are parked.
        run_for: seconds for which the run sends due deliveries; 0 ends the run when nothing is due.
        successors: the run ends WAIT_SECONDS after this many younger drains are alive; 0 for no such limit.
        chunk_size: deliveries per chunk in the bulk lane; 0 selects the task lane.
    """

    concurrency: int = 400
    endpoint_concurrency: int = 50
    max_waiting: int = 1_000
    run_for: float = 0.0
    chunk_size: int = 0
    successors: int = 0
