"""A Prefect deployment as an endpoint: each event starts one flow run."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import httpx
from pydantic import Field, SecretStr, StringConstraints

from resonant.blocks.documents import endpoint_name
from resonant.blocks.endpoint import SinkBlock
from resonant.delivery.attempt import Destination
from resonant.errors import EndpointError
from resonant.events import Clock, Event
from resonant.sinks.base import CallableSink, Receipt

if TYPE_CHECKING:
    from resonant.blocks.deployment_runs import DeploymentRuns

# RFC 6901; empty for the whole event.
Pointer = Annotated[str, StringConstraints(pattern=r"^(/([^~]|~[01])*)?$")]


class DeploymentEndpoint(SinkBlock):
    """Starts one run of a Prefect deployment for each event, however often the event is sent.

    Example:
        ```python
        from resonant.blocks import DeploymentEndpoint

        endpoint = DeploymentEndpoint.load("BLOCK_NAME")
        event = {"type": "com.example.model.stale", "source": "/shop", "data": {"model": 17}}
        endpoint.emit(event)
        ```
    """

    _block_type_name = "Resonant Deployment"
    _block_type_slug = "resonant-deployment"
    _description = "A Prefect deployment: Resonant starts one run of it for each event."

    deployment: str = Field(
        description="FLOW/DEPLOYMENT, as `prefect deployment ls` shows it.", pattern=r"^[^/]+/[^/]+$"
    )
    parameters: dict[str, Pointer] = Field(
        default_factory=dict,
        description="Parameters of the flow and where their values are in the event, as JSON pointers: "
        '{"order": "/data/order"}. Empty: the whole event is the parameter `event`.',
    )
    as_text: bool = Field(
        default=False, description="Give each parameter as JSON text, for parameters of type str."
    )
    tags: list[str] = Field(default_factory=list, description="Tags of the runs, beside the deployment's.")
    work_queue: str | None = Field(
        default=None, description="Work queue of the runs; the deployment's if empty. It must exist."
    )
    concurrency: int | None = Field(
        default=1,
        ge=1,
        description="Maximum concurrent requests in one run; RESONANT_ENDPOINT_CONCURRENCY if empty. With SQLite, Prefect's server "
        "refuses most requests that arrive during another one.",
    )
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
        """Ask Prefect for the deployment.

        Returns:
            Warnings: what is paused, and whether runs may be cancelled.

        Raises:
            EndpointError: it does not exist, the parameters do not fit it, the work queue is unknown, or Prefect does not answer.
        """
        runs = self._runs(name)
        try:
            return await runs.verify()
        finally:
            await runs.aclose()

    async def deliver(self, event: Event) -> Receipt | None:
        """Start a run for an event without the store: no retries, no gate, no rate limit, and no record."""
        if (name := self._block_document_name) is None:
            raise EndpointError(
                "this endpoint has no name: save it, or load it with `load`, before `deliver`"
            )
        runs = self._runs(endpoint_name(self.get_block_type_slug(), name))
        try:
            return await runs.send(event)
        finally:
            await runs.aclose()

    def open(self, name: str, *, clock: Clock = time.time) -> Destination:
        """Return a destination that keeps its connections to Prefect's API."""
        runs = self._runs(name)
        return replace(super().open(name, clock=clock), sink=CallableSink(runs.send), close=runs.aclose)

    def _runs(self, name: str) -> "DeploymentRuns":
        # A process without such an endpoint does not need Prefect's client.
        from resonant.blocks.deployment_runs import DeploymentRuns  # noqa: PLC0415

        self.check(name)
        return DeploymentRuns(name, self)
