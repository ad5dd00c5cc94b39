"""An open HTTP endpoint that picks up changes to its configuration, such as a rotated secret, during a run."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from resonant.errors import EndpointError, NotReady
from resonant.events import Clock, Event
from resonant.sinks.base import Receipt
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.sinks.redaction import Redactor

logger = logging.getLogger(__name__)

# The interval at which a run reads an endpoint's configuration again, in seconds.
LOOK_AGAIN_SECONDS = 10.0
# An endpoint that was not used for this long is not read until it is used again, so that a thousand idle endpoints cost nothing.
IDLE_SECONDS = 30.0
# The longest time that a send then waits for the configuration. Sending continues while Prefect is unavailable.
_WAIT_SECONDS = 2.0


class ReloadingSink:
    """Sends to an endpoint, and reads its configuration again every ``LOOK_AGAIN_SECONDS`` while it is used.

    The first use after ``IDLE_SECONDS`` waits for the configuration. A send in progress keeps its version. Timeout and
    overrides do not change, since the attempt runner has already read them. If the endpoint cannot be read, or its new
    configuration is unusable, the last version stays.
    """

    def __init__(
        self, endpoint: Endpoint, read: Callable[[], Awaitable[Endpoint]], *, clock: Clock = time.time
    ) -> None:
        """Prepare a sink.

        Args:
            endpoint: the configuration when the endpoint is opened.
            read: returns the current configuration.
            clock: returns seconds since the epoch; decides when an old signing secret ends.
        """
        self._read = read
        self._clock = clock
        # Of every version used in this run, since a late error may contain a secret of an old one.
        self._sinks = [HttpSink(endpoint, clock=clock)]
        self._redactor = Redactor.of(endpoint)
        self._looking: asyncio.Task[None] | None = None
        self._used_at = 0.0
        self._is_current = asyncio.Event()
        self._is_current.set()

    async def send(self, event: Event) -> Receipt:
        """Deliver the event once; see ``HttpSink.send``."""
        return await (await self._current()).send(event)

    async def connect(self) -> None:
        """Connect without a request; see ``HttpSink.connect``."""
        await (await self._current()).connect()

    def problem(self) -> NotReady | None:
        """Return why nothing can be sent now; see ``HttpSink.problem``."""
        return self._sinks[-1].problem

    async def prepare(self) -> None:
        """Wait until the configuration is current, and for an OAuth token if the endpoint needs one.

        Raises:
            NotReady: nothing can be sent; see ``HttpSink.prepare``.
        """
        sink = await self._current()
        if sink.may_be_unready:
            await sink.prepare()

    async def _current(self) -> HttpSink:
        """Return the sink of the current configuration. After ``IDLE_SECONDS`` without use, this waits until it is read."""
        self._used_at = asyncio.get_running_loop().time()
        if self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking())
        if not self._is_current.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_current.wait(), _WAIT_SECONDS)
            self._is_current.set()  # so that only the first sends wait while Prefect is unavailable
        return self._sinks[-1]

    def describe(self, error: BaseException) -> str:
        """Describe an error without the endpoint's current and former secrets."""
        if tokens := [token for sink in self._sinks for token in sink.tokens]:
            return Redactor.of(*(sink.endpoint for sink in self._sinks), also=tokens).message(error)
        return self._redactor.message(error)

    async def aclose(self) -> None:
        """Close the connections, and stop reading the endpoint."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None
        for sink in self._sinks:
            await sink.aclose()

    async def look(self) -> None:
        """Read the endpoint's configuration again; the next send uses it."""
        used = [sink.endpoint for sink in self._sinks]
        opened = used[0]
        try:
            read = await self._read()
        except Exception as error:  # noqa: BLE001 - sending continues while Prefect is unavailable
            # Only EndpointError is known to contain no secret.
            reason = error if isinstance(error, EndpointError) else type(error).__name__
            logger.warning("endpoint %s keeps its previous configuration: %s", opened.name, reason)
            return
        now = replace(read, timeout=opened.timeout, overrides=opened.overrides)
        if now != used[-1]:
            self._sinks.append(HttpSink(now, clock=self._clock))
            self._redactor = Redactor.of(*used, now)

    async def _keep_looking(self) -> None:
        if not self._is_current.is_set():
            await self.look()
            self._is_current.set()
        loop = asyncio.get_running_loop()
        while loop.time() - self._used_at < IDLE_SECONDS:
            # All endpoints look at the same moments, so that they can share requests to Prefect.
            await asyncio.sleep(LOOK_AGAIN_SECONDS - loop.time() % LOOK_AGAIN_SECONDS)
            await self.look()
        self._is_current.clear()
        self._looking = None
