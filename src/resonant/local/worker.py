"""The Prefect worker of ``resonant up``."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from resonant.dispatch.run.event_loop import FLOW_RUN
from resonant.errors import ServerError
from resonant.events import Clock
from resonant.local.health import translated_server_errors
from resonant.local.parts import Part
from resonant.local.server import WORKER_SECONDS
from resonant.local.work_pool import WORK_POOL, has_worker, make_work_pool, set_states, start_drains

_LOG = "prefect-worker.log"
# Once Prefect's worker has cancelled a run, it ignores SIGTERM.
_STOP_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_PREPARE_SECONDS = 10.0


class Worker(Part):
    """A worker of the work pool. When it ends, its runs end with it.

    Args:
        home: the folder of its log.
        variables: its environment variables, in addition to those of this process.
        api_url: its server.
        is_served: returns whether that server runs; otherwise, another program on its port could get the password.
        clock: the present time, in seconds since the epoch.
    """

    def __init__(
        self,
        home: Path,
        variables: Mapping[str, str],
        api_url: str,
        *,
        is_served: Callable[[], bool],
        clock: Clock = time.time,
    ) -> None:
        self._is_served = is_served
        self._api_url = api_url
        self._clock = clock
        self._started_at: float | None = None
        options = ["--pool", WORK_POOL, "--name", "resonant-up"]
        command = [sys.executable, "-m", "prefect", "worker", "start", *options]
        environment = {"PREFECT_WORKER_QUERY_SECONDS": "2", **os.environ, **variables}
        super().__init__(
            "Prefect worker",
            home / _LOG,
            command,
            environment,
            start_seconds=WORKER_SECONDS,
            patience=_STOP_SECONDS,
        )

    def start(self) -> bool:
        """If its server runs, mark the runs of a lost worker as crashed, and start it."""
        if not self._is_served():
            return False
        import httpx
        from prefect.exceptions import PrefectException

        starts_again = self._started_at is not None
        started_at = self._clock()
        try:
            with translated_server_errors(self._api_url):
                asyncio.run(_prepare(starts_again=starts_again))
        except TimeoutError:
            raise ServerError(
                f"the Prefect server at {self._api_url} took longer than {_PREPARE_SECONDS:.0f} s to answer"
            ) from None
        except (httpx.HTTPError, PrefectException) as error:
            raise ServerError(f"the Prefect server at {self._api_url} refuses it: {error}") from None
        self._started_at = started_at
        return super().start()

    def is_ready(self) -> bool:
        """Return whether it has asked its server for runs."""
        import httpx

        async def has_polled() -> bool:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await has_worker(self._started_at or 0.0)

        # Prefect's client raises a RuntimeError if its first request fails.
        with contextlib.suppress(httpx.HTTPError, RuntimeError, TimeoutError):
            return asyncio.run(has_polled())
        return False

    def run_processes(self) -> list[tuple[str, psutil.Process]]:
        """Return the processes of its flow runs, with the ids of the runs; none if it was not started."""
        found: list[tuple[str, psutil.Process]] = []
        if not hasattr(self, "supervisor"):
            return found
        with contextlib.suppress(psutil.Error):  # it has ended
            for process in psutil.Process(self.supervisor.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error, KeyError):
                    found.append((process.environ()[FLOW_RUN], process))
        return found


async def _prepare(*, starts_again: bool) -> None:
    """Create the work pool, and mark the runs of a killed worker as crashed, since they occupy slots."""
    from prefect.states import Crashed

    # `up` cannot watch the other parts meanwhile. The first start may take as long as its runs need.
    async with asyncio.timeout(_PREPARE_SECONDS if starts_again else None):
        await make_work_pool()
        await set_states(Crashed(message="its worker was lost"))
        if starts_again:
            await start_drains()
