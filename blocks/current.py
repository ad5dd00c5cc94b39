"""An HTTP endpoint that a run holds open: what an operator changes meanwhile, as a rotated secret, is used soon after."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resonant.errors import EndpointError
from resonant.redact import Redactor
from resonant.sink import HttpSink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from resonant.events import Event
    from resonant.sink import Endpoint, Receipt

logger = logging.getLogger(__name__)

# How old what a run knows of an endpoint may be, in seconds; Prefect's answer takes some more.
LOOK_AGAIN_SECONDS = 10.0


@dataclass
class _Version:
    """An endpoint as it was read once, and how many sends are under way with it."""

    endpoint: Endpoint
    sink: HttpSink
    sending: int = 0


class CurrentSink:
    """Sends to an endpoint as it was read last, which is every ``LOOK_AGAIN_SECONDS`` from its first use on.

    What is under way ends as it began. Timeout and overrides stay those it was opened with, as the courier knows them.
    While it cannot be read, or cannot be used as it is configured now, it stays as it was.
    """

    def __init__(self, endpoint: Endpoint, read: Callable[[], Awaitable[Endpoint]]) -> None:
        """Prepare a sink.

        Args:
            endpoint: as it is configured when it is opened.
            read: returns it as it is configured now.
        """
        self._read = read
        # All that were used in this run: an error that comes late may hold what was secret of an old one.
        self._versions = [_Version(endpoint, HttpSink(endpoint))]
        self._redactor = Redactor.of(endpoint)
        self._looking: asyncio.Task[None] | None = None

    async def send(self, event: Event) -> Receipt:
        """Deliver the event once; see ``HttpSink.send``."""
        self._start_looking()
        version = self._versions[-1]
        version.sending += 1
        try:
            return await version.sink.send(event)
        finally:
            version.sending -= 1

    def rotation(self) -> float | None:
        """Return the oldest rotation of the signing secret that is in use: of what is under way, or of the next send."""
        self._start_looking()
        *before, last = self._versions
        return next((each for each in before if each.sending), last).endpoint.rotation

    def describe(self, error: BaseException) -> str:
        """Say what went wrong without anything that is, or was, secret of the endpoint."""
        return self._redactor.message(error)

    async def aclose(self) -> None:
        """Close the connections, and look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None
        for version in self._versions:
            await version.sink.aclose()

    async def look(self) -> None:
        """Read the endpoint; what differs is used from the next send on."""
        opened, current = self._versions[0].endpoint, self._versions[-1].endpoint
        try:
            read = await self._read()
        except Exception as error:  # noqa: BLE001 - whatever keeps Prefect from answering keeps nobody from sending
            # Only our own errors are sure to quote nothing that is secret.
            reason = error if isinstance(error, EndpointError) else type(error).__name__
            logger.warning("endpoint %s stays as it was read before: %s", opened.name, reason)
            return
        now = replace(read, timeout=opened.timeout, overrides=opened.overrides)
        if now != current:
            self._versions.append(_Version(now, HttpSink(now)))
            self._redactor = Redactor.of(*(version.endpoint for version in self._versions))

    def _start_looking(self) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            await self.look()
