"""Resonant: a drain with one flow run, which ends with the process."""

import asyncio
import os
from typing import cast

from benches.surroundings import ENDPOINT
from flows.emit import emit_events
from resonant.dispatch.limits import Lane
from resonant.dispatch.run.event_loop import use_uvloop

_RUN_FOR_SECONDS = 86_400.0


async def _main() -> None:
    lane = cast("Lane", os.environ["BENCH_LANE"])
    endpoint = os.environ.get("BENCH_ENDPOINT", ENDPOINT) or None
    await emit_events(endpoint=endpoint, run_for=_RUN_FOR_SECONDS, lane=lane)


use_uvloop()  # as in a flow run that Prefect starts
asyncio.run(_main())
