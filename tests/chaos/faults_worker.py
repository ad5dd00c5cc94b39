"""A process that sends due deliveries, with its own clock: ``python -m faults_worker URL RECEIVER SECONDS_AHEAD``."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from chaos_journal import Journal
from faults import Fault, run

_RUN_SECONDS = 120


async def main(url: str, receiver: str, ahead: float) -> None:
    fault = Fault(url, Journal(receiver, Path(sys.argv[0])), clock=lambda: time.time() + ahead)
    owner = f"worker-{ahead:g}"
    async with (
        fault.opened_store() as store,
        fault.opened_emission(store, owner=owner, run_for=_RUN_SECONDS) as dispatcher,
    ):
        # Its leases end by its own clock, so it must not take over those of others.
        await run(dispatcher, take_over=False)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
