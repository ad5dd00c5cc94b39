"""The base class of endpoints on a Prefect server: this process's server, or one of their own."""

import time
from abc import abstractmethod
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol

import httpx
from pydantic import Field, SecretStr

from resonant.blocks.documents import endpoint_name
from resonant.blocks.endpoint import SinkBlock
from resonant.delivery.attempt import Destination
from resonant.errors import EndpointError
from resonant.events import Clock, Event
from resonant.sinks.base import CallableSink, Receipt


class PrefectSink(Protocol):
    """Sends through Prefect's API, and keeps its connections."""

    def send(self, event: Event) -> Awaitable[Receipt]:
        """Send an event once, or raise."""

    def verify(self) -> Awaitable[list[str]]:
        """Compare the configuration with the server; return warnings, or raise ``EndpointError``."""

    def aclose(self) -> Awaitable[None]:
        """Close the connections."""


class PrefectEndpoint(SinkBlock):
    """An endpoint that is reached through Prefect's API."""

    api_url: str | None = Field(
        default=None,
        description="URL of the Prefect API, without a password; PREFECT_API_URL of the sending process if empty.",
    )
    api_key: SecretStr | None = Field(default=None, description="API key, for an API URL above.")
    auth_string: SecretStr | None = Field(
        default=None, description="USER:PASSWORD (PREFECT_API_AUTH_STRING), for an API URL above."
    )

    def check(self, name: str) -> None:
        """Check the configuration, without asking Prefect.

        Raises:
            EndpointError: the URL cannot be used, or the key has no URL.
        """
        if self.api_url is None:
            if self.api_key or self.auth_string:
                raise EndpointError(f"endpoint {name!r}: its API key or password needs an api_url")
            return
        try:
            url = httpx.URL(self.api_url)
            usable = url.scheme in {"http", "https"} and bool(url.host) and not url.userinfo
        except httpx.InvalidURL:
            usable = False
        if not usable:
            raise EndpointError(
                f"endpoint {name!r}: its api_url must be http(s)://HOST/api, and its password an auth_string"
            )

    async def verify(self, name: str) -> list[str]:
        """Ask Prefect whether the configuration fits; return warnings.

        Raises:
            EndpointError: it does not, or Prefect does not answer.
        """
        sink = self._checked_sink(name)
        try:
            return await sink.verify()
        finally:
            await sink.aclose()

    async def deliver(self, event: Event) -> Receipt | None:
        """Send an event without the store: no retries, no gate, no rate limit, and no record."""
        if (name := self._block_document_name) is None:
            raise EndpointError(
                "this endpoint has no name: save it, or load it with `load`, before `deliver`"
            )
        sink = self._checked_sink(endpoint_name(self.get_block_type_slug(), name))
        try:
            return await sink.send(event)
        finally:
            await sink.aclose()

    def open(self, name: str, *, clock: Clock = time.time) -> Destination:
        """Return a destination that keeps its connections to Prefect's API."""
        sink = self._checked_sink(name, clock)
        return replace(super().open(name, clock=clock), sink=CallableSink(sink.send), close=sink.aclose)

    def _checked_sink(self, name: str, clock: Clock = time.time) -> PrefectSink:
        self.check(name)
        return self._sink(name, clock)

    @abstractmethod
    def _sink(self, name: str, clock: Clock) -> PrefectSink:
        """Return the sink. It is imported here: a process without such an endpoint does not need Prefect's client."""
