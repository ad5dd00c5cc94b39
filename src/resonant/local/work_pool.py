"""The work pool of the deployments: its worker and its flow runs, through Prefect's client."""

from __future__ import annotations

import contextlib
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from resonant import output

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

WORK_POOL = "resonant"
DRAIN = "emit-events/drain"
# The message of a run that was marked as crashed because its heartbeats stopped. It may be alive: the server may have been down.
LOST = "its worker was lost: its heartbeats stopped"
_UNFINISHED = frozenset({"PENDING", "RUNNING", "CANCELLING"})
_DRAINS = 2
# When the second drain starts, the first one is running, and the oldest earlier one has ended and freed its slot.
_APART = timedelta(seconds=60)
_RECENT = timedelta(minutes=10)


def _client() -> PrefectClient:
    from prefect.client.orchestration import get_client

    return get_client()


async def make_work_pool() -> None:
    """Create the work pool; an existing one of any type stays unchanged."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    async with _client() as client:
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))


async def has_worker(started_at: float) -> bool:
    """Return whether a worker has polled the work pool since this time, in seconds since the epoch."""
    async with _client() as client:
        workers = await client.read_workers_for_work_pool(WORK_POOL)
    beats = [each.last_heartbeat_time for each in workers if each.last_heartbeat_time]
    return any(beat.timestamp() >= started_at for beat in beats)


async def start_drains() -> None:
    """Start two drains at once, since the first scheduled one is minutes away, unless drains already wait for a worker.

    Running drains hand over to them. If an operator has paused the deployment, none starts.
    """
    from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
    from prefect.states import Scheduled

    now = datetime.now(UTC)
    # A killed worker may have left older pending runs.
    soon = {"after_": now - _RECENT, "before_": now + 2 * _APART}
    waiting = {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}, "expected_start_time": soon}
    async with _client() as client:
        drain = await client.read_deployment_by_name(DRAIN)
        if is_stopped(drain):
            output.say(f"no drain is started: the deployment {DRAIN} or its schedule is paused")
            return
        found = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(waiting),
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [drain.id]}}),
        )
        for number in range(sum(starts_soon(run, now) for run in found), _DRAINS):
            state: State[Any] = Scheduled(scheduled_time=now + number * _APART)
            await client.create_flow_run_from_deployment(drain.id, state=state)


def is_stopped(deployment: DeploymentResponse) -> bool:
    """Return whether an operator has paused this deployment or all its schedules. Prefect would still start requested runs."""
    schedules = deployment.schedules
    return deployment.paused or (bool(schedules) and not any(schedule.active for schedule in schedules))


def starts_soon(run: FlowRun, now: datetime) -> bool:
    """Return whether a waiting run counts as a drain. A run of the schedule counts once it is due."""
    return not run.auto_scheduled or (run.expected_start_time or now) <= now


async def set_states(state: State[Any], types: AbstractSet[str] = _UNFINISHED) -> set[str]:
    """Set the state of every unfinished run in the work pool, or of those of these types; return the ids of those it changed.

    Resonant started the server, so it owns all of them.
    """
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    before = sorted(types - {state.type.value})
    async with _client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": before}}}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [WORK_POOL]}}),
        )
        for run in runs:
            await client.set_flow_run_state(run.id, state, force=True)
    return {str(run.id) for run in runs}
