"""Runs a drain on uvloop, which sends about a seventh more events than asyncio's own event loop."""

import asyncio
import contextlib
import os
import sys

# Prefect sets this in a process that it starts for one flow run.
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
# libuv looks up names in half of its threads. With its default of 4 threads, two slow lookups would block every other one.
_THREADS = "32"


def use_uvloop_in_flow_run() -> None:
    """Use uvloop for the event loops of this process, if Prefect started it, or its parent, for one flow run.

    Does nothing in other processes: a program chooses its own event loop. Does nothing without uvloop, which is not available for
    every platform.
    """
    if FLOW_RUN in os.environ:
        use_uvloop()


def use_uvloop() -> None:
    """Use uvloop, if it is installed, for the event loops that this process creates from now on."""
    # A policy, since Prefect calls `asyncio.run` itself; Python 3.16 has no policies.
    if sys.version_info < (3, 16):
        with contextlib.suppress(ImportError):
            from resonant.dispatch.run.uv_loop import UvLoopPolicy  # noqa: PLC0415 - only if it can be imported

            os.environ.setdefault("UV_THREADPOOL_SIZE", _THREADS)
            asyncio.set_event_loop_policy(UvLoopPolicy())
