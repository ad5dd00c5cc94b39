"""``/healthz``, ``/readyz`` and ``/metrics``: what supervisors, load balancers and Prometheus ask."""

import asyncio
import logging
import math
import time

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from resonant.errors import StoreError
from resonant.events import Clock
from resonant.intake.access.tokens import Access
from resonant.intake.answers import json_answer
from resonant.intake.meters import Meters
from resonant.intake.problems import Problem
from resonant.store import Store
from resonant.store.engine.migrate import SCHEMA_VERSION, read_schema_version

logger = logging.getLogger(__name__)

_OLDEST_SECONDS = 1.0


async def healthz(_request: Request) -> Response:
    """Answer 200: the process runs."""
    return json_answer({"status": "ok"})


class Readiness:
    """Answers whether the store can be used. It reads the store at most once a second.

    Args:
        store: is read.
        clock: never goes back, in seconds.
    """

    def __init__(self, store: Store, *, clock: Clock = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked_at = -math.inf
        self._is_ready = False

    async def readyz(self, _request: Request) -> Response:
        """Answer 200, or 503 without the reason, which the log has."""
        async with self._looking:
            if self._clock() - self._looked_at >= _OLDEST_SECONDS:
                self._is_ready = await self._look()
                self._looked_at = self._clock()
        if not self._is_ready:
            raise Problem(503, "the store cannot be used now", headers={"Retry-After": "1"})
        return json_answer({"status": "ready"})

    async def _look(self) -> bool:
        try:
            version = await self._store.read(read_schema_version)
        except StoreError as error:
            logger.warning("not ready: %s", error)
            return False
        if version != SCHEMA_VERSION:
            logger.warning(
                "not ready: the store's schema is %s, and this Resonant needs %s", version, SCHEMA_VERSION
            )
        return version == SCHEMA_VERSION


class Metrics:
    """Answers the counts of this process as Prometheus text.

    Args:
        meters: have the counts.
        access: decides who may read them.
    """

    def __init__(self, meters: Meters, access: Access) -> None:
        self._meters = meters
        self._access = access

    async def metrics(self, request: Request) -> Response:
        """Answer the counts."""
        await self._access.authorize(request)
        return Response(generate_latest(self._meters.registry), media_type=CONTENT_TYPE_LATEST)
