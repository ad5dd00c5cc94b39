"""Start the drains at once; the first scheduled one is minutes away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.schemas.objects import FlowRun

DRAIN = "emit-events/drain"
_DRAINS = 2
# When the second drain starts, the first one is running, and the oldest earlier one has ended and freed its slot.
_APART = timedelta(seconds=60)
_RECENT = timedelta(minutes=10)


async def start_drains() -> None:
    """Start two drains, unless drains already wait for a worker. Running drains hand over to them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Scheduled

    now = datetime.now(UTC)
    # A killed worker may have left older pending runs.
    soon = {"after_": now - _RECENT, "before_": now + 2 * _APART}
    waiting = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])),
        expected_start_time=FlowRunFilterExpectedStartTime.model_validate(soon),
    )
    async with get_client() as client:
        drain = await client.read_deployment_by_name(DRAIN)
        of_drain = DeploymentFilter(id=DeploymentFilterId(any_=[drain.id]))
        found = await client.read_flow_runs(flow_run_filter=waiting, deployment_filter=of_drain)
        for number in range(sum(starts_soon(run, now) for run in found), _DRAINS):
            state: State[Any] = Scheduled(scheduled_time=now + number * _APART)
            await client.create_flow_run_from_deployment(drain.id, state=state)


def starts_soon(run: FlowRun, now: datetime) -> bool:
    """Return whether a waiting run counts as a drain. A run of the schedule counts once it is due."""
    return not run.auto_scheduled or (run.expected_start_time or now) <= now
