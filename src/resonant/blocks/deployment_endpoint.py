"""A Prefect deployment as an endpoint: each event starts one flow run."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints

from resonant.blocks.policies import known_policy
from resonant.blocks.prefect_endpoint import PrefectEndpoint, PrefectSink
from resonant.events import Clock, Event
from resonant.settings import load_settings
from resonant.sinks.base import Receipt

# RFC 6901; empty for the whole event.
Pointer = Annotated[str, StringConstraints(pattern=r"^(/([^~]|~[01])*)?$")]


class DeploymentEndpoint(PrefectEndpoint):
    """Starts one run of a Prefect deployment for each event. Repeats start no second run.

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
    wait: bool = Field(
        default=False, description="Whether an event is delivered only when its run has completed."
    )
    wait_at_most: float = Field(
        default=86_400.0, gt=0, description="The longest wait for the end of a run, in seconds."
    )

    async def verify(self, name: str) -> list[str]:
        """Ask Prefect whether the deployment fits; return warnings, also of a wait that the policy ends.

        Raises:
            EndpointError: it does not, or Prefect does not answer.
        """
        warnings = await super().verify(name)
        settings = load_settings()
        max_age = settings.policy(known_policy(self.policy, settings)).max_age
        if self.wait and self.wait_at_most > max_age:
            warnings.append(
                f"wait_at_most is {self.wait_at_most:g} s, but the max_age of its policy is {max_age:g} s, after which a delivery "
                "expires while its run continues: lower wait_at_most, or set a policy with a higher max_age"
            )
        return warnings

    async def deliver(self, event: Event) -> Receipt | None:
        """Start the run of an event without the store, and without waiting for its end."""
        return await super().deliver(event) if not self.wait else await self.without_wait().deliver(event)

    def without_wait(self) -> Self:
        """Return this endpoint without ``wait``."""
        return self.model_copy(update={"wait": False}).named(self._block_document_name)

    def _sink(self, name: str, clock: Clock) -> PrefectSink:
        from resonant.blocks.deployment_runs import DeploymentRuns  # noqa: PLC0415

        return DeploymentRuns(name, self, clock)
